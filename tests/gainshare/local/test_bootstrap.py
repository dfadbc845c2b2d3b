"""`bootstrap_local`: a new site gets its administrator, a key and a first price, once."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from gainshare.accounts.models import ApiKey, Scope, User
from gainshare.accounts.services import authenticate_key, revoke_api_key
from gainshare.capacity.hosts.registration import revoke_host
from gainshare.capacity.hosts.tokens import authenticate_host
from gainshare.capacity.models import LIVE, Host, Node, NodeState, ServedModel
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import active_price, publish_price
from gainshare.local.management.commands.bootstrap_local import FIRST_PRICE
from gainshare.local.secrets import read_secret, write_secret

pytestmark = pytest.mark.django_db


def bootstrap(folder: Path, **options: str | Path) -> None:
    password = folder / "password"
    if not password.exists():
        write_secret(password, "first-password-of-admin")
    call_command("bootstrap_local", password_file=password, key_file=folder / "key", **options)


def test_the_administrator_can_log_in_and_use_the_key(tmp_path: Path) -> None:
    bootstrap(tmp_path)
    admin = User.objects.get(username="admin")
    assert admin.check_password("first-password-of-admin")
    assert (admin.is_maintainer, admin.is_staff, admin.is_superuser) == (True, True, True)
    key = authenticate_key(read_secret(tmp_path / "key"))
    assert key.user == admin
    assert set(key.scopes) == set(Scope.values)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_repeating_changes_nothing(tmp_path: Path) -> None:
    bootstrap(tmp_path, price_model="tiny")
    key = read_secret(tmp_path / "key")
    bootstrap(tmp_path, price_model="tiny")
    assert read_secret(tmp_path / "key") == key
    assert (User.objects.count(), ApiKey.objects.count(), PriceVersion.objects.count()) == (1, 1, 1)


def test_a_password_changed_on_the_site_stays_changed(tmp_path: Path) -> None:
    bootstrap(tmp_path)
    admin = User.objects.get(username="admin")
    admin.set_password("their-own-new-password")
    admin.save()
    bootstrap(tmp_path)
    assert User.objects.get(username="admin").check_password("their-own-new-password")


def test_a_revoked_or_lost_key_is_replaced(tmp_path: Path) -> None:
    bootstrap(tmp_path)
    first = authenticate_key(read_secret(tmp_path / "key"))
    revoke_api_key(user=first.user, prefix=first.prefix)
    bootstrap(tmp_path)
    second = authenticate_key(read_secret(tmp_path / "key"))
    assert second.prefix != first.prefix
    (tmp_path / "key").unlink()
    bootstrap(tmp_path)
    assert authenticate_key(read_secret(tmp_path / "key")).prefix not in {first.prefix, second.prefix}


def test_the_served_model_gets_a_price_unless_it_has_one(tmp_path: Path) -> None:
    bootstrap(tmp_path, price_model="tiny")
    price = active_price("tiny", timezone.now())
    assert {name: getattr(price, name) for name in FIRST_PRICE} == FIRST_PRICE
    publish_price(
        model="other",
        effective_at=timezone.now() - timedelta(days=1),
        cached_input=1,
        fresh_input=2,
        output=3,
        actor=None,
    )
    bootstrap(tmp_path, price_model="other")
    assert active_price("other", timezone.now()).output == 3


def test_without_a_model_nothing_is_priced(tmp_path: Path) -> None:
    bootstrap(tmp_path)
    assert not PriceVersion.objects.exists()


def elastic(folder: Path) -> Host:
    bootstrap(folder, price_model="tiny", host_token_file=folder / "host-token")
    host = authenticate_host(read_secret(folder / "host-token"))
    assert host is not None
    return host


def test_an_elastic_site_has_a_class_a_host_a_served_model_and_one_order(tmp_path: Path) -> None:
    host = elastic(tmp_path)
    assert (host.name, host.device_class.name, host.allowed_address) == ("local", "local", "127.0.0.1")
    assert (tmp_path / "host-token").stat().st_mode & 0o777 == 0o600
    served = ServedModel.objects.get()
    assert (served.name, served.fixed_nodes, list(served.classes.all())) == ("tiny", 1, [host.device_class])
    node = Node.objects.get()
    assert (node.host, node.device, node.model, node.state) == (host, 0, "tiny", NodeState.STARTING)


def test_an_elastic_site_that_starts_again_has_one_order_and_its_old_token(tmp_path: Path) -> None:
    host = elastic(tmp_path)
    token = read_secret(tmp_path / "host-token")
    Node.objects.update(state=NodeState.READY, told_at=timezone.now())
    served = ServedModel.objects.get()
    served.classes.clear()  # a maintainer's change stays
    assert elastic(tmp_path) == host
    assert read_secret(tmp_path / "host-token") == token
    assert Node.objects.filter(state__in=LIVE).count() == 1
    assert Node.objects.filter(state=NodeState.ENDED).get().end_reason == "the local stack was started again"
    assert not ServedModel.objects.get().classes.exists()


def test_a_lost_host_token_is_renewed_and_a_revoked_host_gets_a_successor(tmp_path: Path) -> None:
    host = elastic(tmp_path)
    (tmp_path / "host-token").unlink()
    assert elastic(tmp_path) == host
    revoke_host(actor=User.objects.get(username="admin"), name="local", reason="a test")
    assert elastic(tmp_path).name == "local-2"
    assert elastic(tmp_path).name == "local-2"
