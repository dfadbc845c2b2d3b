"""REST and pages against requests that no one sends by accident: none of them makes the platform fail.

Also the permissions of every endpoint in the URLs, for every kind of caller.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from bounty.services.runners.registration import register_runner
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.parsing import MAX_PAGE, SMALL_BYTES
from gainshare.accounts.services import create_api_key
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db
VALUES = {"uuid": str(uuid4()), "str": "nothing", "slug": "nothing", "int": "1", "path": "nothing"}
NUL, TOO_LARGE = "a%00b", "9" * 30
# What callers without a role may change, by what they show. All else is refused before it is looked at.
WITHOUT_A_KEY = {"POST users/"}
WITH_ANY_KEY = {*WITHOUT_A_KEY, "POST keys/", "DELETE keys/<str:prefix>/"}
AS_A_CONTRIBUTOR = WITH_ANY_KEY | {
    "POST trees/",
    "POST submissions/",
    "POST submissions/<uuid:pk>/withdraw/",
    "POST submissions/<uuid:pk>/review/",
    "POST submissions/<uuid:pk>/remeasure/",
    "POST submissions/<uuid:pk>/dispute/",
    "POST reproductions/",
}


# Takes no body, so that none is unusable.
WITHOUT_A_BODY = {"POST github/check/"}


def routes(prefix: str = "api/v1/", patterns: Any = None, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every address below `prefix`, as it is in the URLs, with its view class."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        here = at + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(prefix, pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and here.startswith(prefix):
            yield here, pattern.callback.view_class  # type: ignore[attr-defined]  # all of REST are classes


ROUTES = sorted(dict(routes()).items())
CHANGING = [
    (method, route)
    for route, view in ROUTES
    for method in ("POST", "PUT", "PATCH", "DELETE")
    if hasattr(view, method.lower())
]
READABLE = [route for route, view in ROUTES if hasattr(view, "get")]


def address(route: str, value: str = "") -> str:
    """`route` with something in its places: `value` where that may be any text."""
    filled = route
    for kind, usual in VALUES.items():
        while f"<{kind}:" in filled:
            start = filled.index(f"<{kind}:")
            end = filled.index(">", start) + 1
            filled = filled[:start] + (value if value and kind == "str" else usual) + filled[end:]
    return "/" + filled


def caller(raw: str | None) -> APIClient:
    client = APIClient(raise_request_exception=False)
    if raw is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def key_of(user: User, *scopes: str) -> str:
    return create_api_key(user=user, name="test", scopes=list(scopes))[1]


def runner_token() -> str:
    return register_runner(actor=None, name="r", hardware="cpu", public_key="A" * 43 + "=")[1]


def asked(client: Client, method: str, target: str, body: bytes = b"", kind: str = "application/json") -> Any:
    """The answer, with all that the request did to the database undone: no request is to hide the next one."""
    before = transaction.savepoint()
    answer = client.generic(method, target, body, content_type=kind)
    transaction.set_rollback(False)
    transaction.savepoint_rollback(before)
    assert answer.status_code < 500, (method, target, kind, answer.content)
    return answer


def let_in(client: APIClient) -> set[str]:
    """Changing requests that pass the permissions, sent with an unusable body."""
    found = set()
    for method, route in CHANGING:
        answer = asked(client, method, address(route), b"[]")
        entry = f"{method} {route.removeprefix('api/v1/')}"
        assert answer.status_code >= 400 or entry in WITHOUT_A_BODY, (method, route, answer.content)
        if answer.status_code not in (401, 403):
            found.add(entry)
    return found


def test_the_addresses_are_found() -> None:
    assert len(READABLE) > 25 and len(CHANGING) > 30


def test_without_a_key_one_may_only_sign_up() -> None:
    assert let_in(caller(None)) == WITHOUT_A_KEY
    assert let_in(caller("gs_" + "0" * 12 + "_" + "0" * 64)) == set()


def test_a_key_that_reads_changes_nothing_but_keys() -> None:
    assert let_in(caller(key_of(make_user(), "read"))) == WITH_ANY_KEY
    assert let_in(caller(key_of(make_user("maintainer"), "read"))) == WITH_ANY_KEY


def test_a_key_for_models_is_for_models() -> None:
    assert let_in(caller(key_of(make_user("maintainer"), "inference"))) == WITHOUT_A_KEY


def test_a_contributor_may_do_what_contributors_do() -> None:
    assert let_in(caller(key_of(make_user(), "read", "submit", "inference"))) == AS_A_CONTRIBUTOR


def test_a_maintainer_may_not_speak_for_a_runner() -> None:
    maintainer = make_user("maintainer")
    may = let_in(caller(key_of(maintainer, "read", "submit", "inference", "maintain")))
    assert may >= AS_A_CONTRIBUTOR
    assert {entry for entry in may if " runner/" in entry or " agent/" in entry} == set()


def test_a_runner_speaks_for_itself_only() -> None:
    may = let_in(caller(runner_token()))
    assert len(may) > len(WITHOUT_A_KEY)
    assert all(entry.startswith("POST runner/") for entry in may - WITHOUT_A_KEY)
    demoted = make_user("maintainer")
    raw = key_of(demoted, "maintain")
    User.objects.filter(pk=demoted.pk).update(role="contributor")
    assert let_in(caller(raw)) == WITHOUT_A_KEY


@pytest.mark.parametrize("route", READABLE)
def test_no_query_and_no_name_makes_reading_fail(route: str) -> None:
    client = caller(key_of(make_user("maintainer"), "read", "maintain"))
    names = ("state", "kind", "submitter", "author", "bounty", "submission", "model", "offset", "limit")
    queries = [f"{name}={value}" for name in names for value in (NUL, TOO_LARGE, "-1", "%ff%fe")]
    for target in (*(f"{address(route)}?{query}" for query in queries), address(route, NUL)):
        asked(client, "GET", target)


BODIES = {
    "a text": b'"x"', "a list": b"[1]", "null": b"null", "a number": b"1", "not a number": b'{"a": NaN}',
    "no text": b"\xff\xfe", "deep": b"[" * 100_000, "long": b"9" * 5000, "nothing": b"",
    "endless": b'{"transfer_id": 1e999, "amount_microcredits": 1e999}',
    "half a character": json.dumps({"username": "\ud800", "name": "\ud800", "diff": "\ud800"}).encode(),
    "NUL": json.dumps({"username": "a\0", "name": "a\0", "diff": "a\0", "base": "a\0"}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_body_makes_a_change_fail(body: bytes) -> None:
    people = caller(key_of(make_user("maintainer"), "read", "submit", "maintain"))
    runner = caller(runner_token())
    for method, route in CHANGING:
        client = runner if "/runner/" in route else people
        for kind in ("application/json", "application/json; charset=none", "multipart/form-data", "text/x"):
            asked(client, method, address(route), body, kind)


def test_bodies_and_pages_are_bounded() -> None:
    body = b'{"username": "' + b"x" * SMALL_BYTES + b'"}'
    answer = caller(None).generic("POST", "/api/v1/users/", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    form = caller(None).post("/api/v1/users/", {"username": "x"}, format="multipart")
    assert form.status_code == 415
    ann = make_user()
    ApiKey.objects.bulk_create(
        [ApiKey(user=ann, name="k", prefix=f"{i:012}", scopes=["read"]) for i in range(MAX_PAGE)]
    )
    listed = caller(key_of(ann, "read")).get(f"/api/v1/keys/?limit={10**9}").json()
    assert (listed["count"], len(listed["results"])) == (MAX_PAGE + 1, MAX_PAGE)


@pytest.mark.parametrize("username", ["a\0b", "a" * 5000, "\x7f"])
def test_no_name_makes_signing_in_fail(username: str) -> None:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=_basic(username))
    answer = asked(client, "GET", "/api/v1/keys/")
    assert answer.status_code in (400, 401)
    assert username not in answer.content.decode()
    assert Client().post("/login/", {"username": username, "password": "x"}).status_code == 200


def _basic(username: str) -> str:
    return "Basic " + b64encode(f"{username}:x".encode()).decode()


@pytest.mark.parametrize(
    "path", ["/bounties/", "/submissions/", "/runners/", "/lineages/", "/usage/", "/credits/", "/disputes/"]
)
def test_no_query_makes_a_page_fail(path: str) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(make_user("maintainer"))
    for name in ("state", "submitter", "author", "page", "kind"):
        for value in (NUL, TOO_LARGE, "-1", "%ff%fe"):
            asked(client, "GET", f"{path}?{name}={value}")
    answer = asked(client, "POST", f"/keys/{NUL}/revoke/")
    assert answer.status_code == 400
    assert "The request cannot be used" in answer.content.decode()
