"""REST for maintainers: hosts with tokens shown once, renewal, revocation, notices."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.accounts.services import create_api_key
from gainshare.capacity.hosts.tokens import authenticate_host
from gainshare.capacity.models import Host, Node, NodeState
from tests.gainshare.capacity.pool_world import again, make_class, make_host, make_user

pytestmark = pytest.mark.django_db
HOSTS = "/api/v1/capacity/hosts/"


def client(role: str = "maintainer") -> APIClient:
    user = make_user(role)
    _, raw = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))
    made = APIClient()
    made.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return made


def added(who: APIClient, **more: Any) -> Any:
    return who.post(HOSTS, {"name": "spot-1", "device_class": "cpu-small", **more}, format="json")


def test_a_token_is_shown_once_and_only_its_digest_is_stored() -> None:
    make_class()
    who = client()
    answer = added(who, is_exclusive=True, address="10.0.0.7")
    assert answer.status_code == 201
    token = answer.json()["token"]
    host = authenticate_host(token)
    assert host is not None and host.is_exclusive and host.allowed_address == "10.0.0.7"
    assert token not in str(Host.objects.values().get())
    for shown in (who.get(HOSTS), who.get(f"{HOSTS}spot-1/")):
        assert token not in shown.content.decode() and "digest" not in shown.content.decode()
    again_ = added(who)
    assert (again_.status_code, again_.json()["error"]["code"]) == (409, "host_exists")
    assert authenticate_host(token) == host


@pytest.mark.parametrize("address", ["http://10.0.0.7", "10.0.0.7:80", "a b", "-x", "user@host", "10.0.0", "fe80::1%eth0", "a/../b"])  # fmt: skip
def test_an_address_is_an_address_only(address: str) -> None:
    make_class()
    answer = added(client(), address=address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_address")


def test_an_unknown_class_is_named_with_the_known_ones() -> None:
    make_class("h100")
    answer = added(client())
    assert answer.status_code == 404 and "h100" in answer.json()["error"]["message"]


def test_only_maintainers_see_and_change_hosts() -> None:
    make_host(make_class(), name="spot-1")
    for who in (client("contributor"), APIClient()):
        denied = {401, 403}
        assert who.get(HOSTS).status_code in denied
        assert who.get(f"{HOSTS}spot-1/").status_code in denied
        assert added(who, name="mine").status_code in denied
        for action in ("renew", "revoke", "departure"):
            assert who.post(f"{HOSTS}spot-1/{action}/", {}, format="json").status_code in denied
        assert who.delete(f"{HOSTS}spot-1/departure/").status_code in denied


def test_a_renewed_token_replaces_the_old_one_and_lets_the_host_move() -> None:
    make_class()
    who = client()
    old = added(who).json()["token"]
    Host.objects.update(address="192.0.2.7")
    answer = who.post(f"{HOSTS}spot-1/renew/")
    assert authenticate_host(old) is None
    assert authenticate_host(answer.json()["token"]) == Host.objects.get()
    assert answer.json()["address"] == ""


def test_a_revoked_host_is_out_for_good() -> None:
    host = make_host(make_class(), name="spot-1")
    node = Node.objects.create(host=host, device=0, model="tiny", reason="a test", state=NodeState.READY)
    who = client()
    for _ in range(2):
        answer = who.post(f"{HOSTS}spot-1/revoke/", {"reason": "stolen"}, format="json")
        assert (answer.status_code, answer.json()["problem"]) == (200, "revoked: stolen")
    gone = again(node)
    assert (gone.state, gone.end_reason) == (NodeState.ENDED, "its host was revoked")
    assert who.post(f"{HOSTS}spot-1/renew/").status_code == 404


def test_a_notice_is_announced_and_withdrawn() -> None:
    make_host(make_class(), name="spot-1")
    who = client()
    who.post(f"{HOSTS}spot-1/departure/", {"in_s": 60}, format="json")
    announced = Host.objects.get().leaves_at
    assert announced is not None and timedelta(0) < announced - timezone.now() <= timedelta(seconds=60)
    assert who.delete(f"{HOSTS}spot-1/departure/").json()["leaves_at"] is None
    assert who.post(f"{HOSTS}nothing/departure/", {"in_s": 60}, format="json").status_code == 404
