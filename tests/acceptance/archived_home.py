"""Unpacks the home of an earlier version, with its database restored into a fresh cluster."""

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from gainshare.local.paths import Home
from gainshare.local.postgres import DATABASE, OWNER, Cluster, reachable_binaries, server_account
from gainshare.local.secrets import Secrets, read_secret

ARCHIVE = Path(__file__).parent / "archived_home" / "home.tar.xz"


def cluster_of(home: Home) -> Cluster:
    return Cluster(
        data=home.postgres_data,
        sockets=home.postgres_sockets,
        password=read_secret(Secrets(home.secrets).database_password),
        binaries=reachable_binaries(server_account(), home.binaries_copy),
    )


def unpack(home: Home) -> None:
    home.create()
    with tempfile.TemporaryDirectory() as name, tarfile.open(ARCHIVE) as archive:
        archive.extractall(name, filter="tar")
        for folder in Path(name, "home").iterdir():
            subprocess.run(["cp", "-a", str(folder), str(home.root)], check=True)
        _restore(home, Path(name, "database.sql"))


def _restore(home: Home, dump: Path) -> None:
    cluster = cluster_of(home)
    cluster.initialise()
    server = cluster.start(home.root / "restoring.log")
    cluster.ensure_database()
    psql = reachable_binaries(server_account(), home.binaries_copy) / "bin" / "psql"
    subprocess.run(
        [
            psql,
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            home.postgres_sockets,
            "-U",
            OWNER,
            "-f",
            dump,
            DATABASE,
        ],
        env={"PGPASSWORD": read_secret(Secrets(home.secrets).database_password)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    cluster.stop(server)


def known() -> dict[str, Any]:
    with tarfile.open(ARCHIVE) as archive:
        member = archive.extractfile("known.json")
        assert member is not None
        found: dict[str, Any] = json.load(member)
        return found
