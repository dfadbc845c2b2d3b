"""`bootstrap_local`: prepares a new local site for its first login. Repeating it changes nothing.

Makes the administrator `admin` (a maintainer who may also use Django's admin pages), an API key for it, and a
first price for the served model, because a model without a price is refused.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from gainshare.accounts.models import Role, Scope, User
from gainshare.accounts.services import InvalidKey, authenticate_key, create_api_key, create_user
from gainshare.ledger.errors import Unpriced
from gainshare.ledger.price_book import active_price, publish_price
from gainshare.local.pool import ensure_pool
from gainshare.local.secrets import read_secret, write_secret

ADMIN = "admin"
KEY_NAME = "local administrator"
# Micro-credits per million tokens. A maintainer publishes other prices at any time.
FIRST_PRICE = {"cached_input": 1_000_000, "fresh_input": 4_000_000, "output": 16_000_000}


class Command(BaseCommand):
    help = "Make the local administrator, its API key and a first price"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--password-file", type=Path, required=True, help="file with the administrator's password"
        )
        parser.add_argument(
            "--key-file", type=Path, required=True, help="file for the API key; kept if its key works"
        )
        parser.add_argument(
            "--price-model", default="", help="model that gets a first price, unless it has one"
        )
        parser.add_argument(
            "--host-token-file",
            type=Path,
            help="file for the token of this machine's node agent, which then serves the model",
        )
        parser.add_argument("--no-first-node", action="store_true", help="let the agent begin without a node")

    def handle(self, *args: Any, **options: Any) -> None:
        admin = ensure_admin(read_secret(options["password_file"]))
        if not key_works(options["key_file"]):
            _, raw = create_api_key(user=admin, name=KEY_NAME, scopes=list(Scope.values))
            write_secret(options["key_file"], raw)
        if options["price_model"]:
            ensure_price(options["price_model"])
        if options["host_token_file"]:
            ensure_pool(
                admin,
                options["price_model"],
                options["host_token_file"],
                has_node=not options["no_first_node"],
            )


def ensure_admin(password: str) -> User:
    """Get or create the user `admin` with this password. A password that was changed on the site is kept."""
    admin = User.objects.filter(username=ADMIN).first()
    if admin is None:
        admin = create_user(username=ADMIN, password=password, role=Role.MAINTAINER.value)
    if not (admin.is_staff and admin.is_superuser):
        admin.is_staff = admin.is_superuser = True
        admin.save(update_fields=["is_staff", "is_superuser"])
    return admin


def key_works(file: Path) -> bool:
    """Whether the file has a key that the site accepts now."""
    try:
        authenticate_key(read_secret(file))
    except (FileNotFoundError, InvalidKey):
        return False
    return True


def ensure_price(model: str) -> None:
    """Publish a first price of `model`, unless it has one."""
    now = timezone.now()
    try:
        active_price(model, now)
    except Unpriced:
        publish_price(model=model, effective_at=now, actor=None, **FIRST_PRICE)
