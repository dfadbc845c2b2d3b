"""Host tokens: only the whole, unrevoked token opens; nodes' tokens differ and are never stored."""

from uuid import uuid4

import pytest
from django.utils import timezone

from gainshare.accounts.errors import redact
from gainshare.capacity.hosts.tokens import HostToken, authenticate_host, new_token, node_token
from gainshare.capacity.models import Host
from tests.gainshare.capacity.pool_world import make_class, make_host


def host_with_token() -> tuple[Host, HostToken]:
    token = new_token()
    return make_host(make_class(), token_prefix=token.prefix, token_digest=token.digest), token


@pytest.mark.django_db
def test_a_token_opens_until_it_is_revoked() -> None:
    host, token = host_with_token()
    assert authenticate_host(token.text) == host
    Host.objects.filter(pk=host.pk).update(revoked_at=timezone.now())
    assert authenticate_host(token.text) is None


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["", "x", "\x00", "é"])
def test_a_part_or_a_changed_token_opens_nothing(change: str) -> None:
    _, token = host_with_token()
    for wrong in (
        token.text[:-1] + change,
        change,
        f"gsh_{token.prefix}_",
        token.text.replace("gsh_", "gs_"),
    ):
        assert authenticate_host(wrong) is None


def test_neither_repr_nor_an_error_shows_a_token() -> None:
    token = new_token()
    assert token.text not in repr(token) and token.digest not in repr(token)
    assert redact(f"wrong: {token.text}") == "wrong: gsh_***"


def test_each_node_has_its_own_token() -> None:
    one, other = uuid4(), uuid4()
    assert node_token(one) == node_token(one) != node_token(other)
