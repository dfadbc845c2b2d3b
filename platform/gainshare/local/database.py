"""Configures this process for the local stack's database, for the command that reads it directly."""

import os

from gainshare.local.paths import home_from_environment
from gainshare.local.postgres import Cluster
from gainshare.local.secrets import Secrets, read_secret
from gainshare.local.state import running_state


def use_local_database() -> None:
    """Set DATABASE_URL and the secret key's file for Django's settings. Raises NotRunning."""
    home = home_from_environment()
    running_state(home)
    secrets = Secrets(home.secrets)
    cluster = Cluster(
        data=home.postgres_data,
        sockets=home.postgres_sockets,
        password=read_secret(secrets.database_password),
    )
    os.environ["DATABASE_URL"] = cluster.url()
    os.environ["GAINSHARE_SECRET_KEY_FILE"] = str(secrets.django_key)
