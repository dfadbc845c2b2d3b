"""REST lists refuse unknown parameters and impossible values."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from gainshare.accounts.parsing import MAX_PAGE
from gainshare.accounts.services import create_api_key
from tests.gainshare.ledger.ledger_world import make_user
from tests.rest_contract import document

pytestmark = pytest.mark.django_db
LISTS = {
    path: {parameter["name"]: parameter for parameter in methods["get"]["parameters"]}
    for path, methods in document()["paths"].items()
    if "get" in methods and any(p["name"] == "offset" for p in methods["get"].get("parameters", ()))
    and any(p["name"] == "limit" for p in methods["get"]["parameters"])
}  # fmt: skip


def maintainer() -> APIClient:
    user = make_user("maintainer")
    client = APIClient()
    _, raw = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def asked(path: str, **query: Any) -> Any:
    return maintainer().get(path.replace("{name}", "nothing"), query)


def test_all_lists_are_found() -> None:
    named = {path.removeprefix("/api/v1/") for path in LISTS}
    assert named == {
        "awards/", "bounties/", "capacity/classes/", "capacity/decisions/", "capacity/deployments/", "capacity/hosts/",
        "capacity/models/", "disputes/", "keys/", "lineages/", "prices/", "reproductions/", "reversals/", "royalties/",
        "runners/", "runners/{name}/noise/", "runs/",
        "slow-bases/", "submissions/", "usage/",
    }  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
def test_an_unknown_parameter_is_refused_with_the_known_ones(path: str) -> None:
    answer = asked(path, page=9999, stat="open")
    assert answer.status_code == 400
    details = answer.json()["error"]["details"]
    assert set(details) == {"page", "stat"}
    assert all(name in details["page"][0] for name in LISTS[path] if name != "name")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, name)
        for path, taken in LISTS.items()
        for name, stated in taken.items()
        if "enum" in stated["schema"]
    ],
)
def test_a_value_that_nothing_has_is_refused_with_the_allowed_ones(path: str, name: str) -> None:
    allowed = LISTS[path][name]["schema"]["enum"]
    answer = asked(path, **{name: "zzz"})
    assert answer.status_code == 400
    (said,) = answer.json()["error"]["details"][name]
    assert "zzz" in said and all(value in said for value in allowed)
    for value in (*allowed, ""):
        assert asked(path, **{name: value}).status_code == 200


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, name)
        for path, taken in LISTS.items()
        for name, stated in taken.items()
        if stated["in"] == "query" and stated["schema"].get("format") == "uuid"
    ],
)
def test_a_damaged_id_is_refused(path: str, name: str) -> None:
    answer = asked(path, **{name: "zzz"})
    assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, [name])


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "many"}, {"offset": "-1"}, {"offset": "x"}])
@pytest.mark.parametrize("path", LISTS)
def test_a_page_that_cannot_be_is_refused(path: str, query: dict[str, str]) -> None:
    answer = asked(path, **query)
    assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, list(query))


@pytest.mark.parametrize("path", LISTS)
def test_beyond_the_end_there_are_no_rows(path: str) -> None:
    answer = asked(path, offset=10_000, limit=MAX_PAGE).json()
    assert answer["results"] == []


@pytest.mark.parametrize(
    ("path", "name"), [("submissions", "submitter"), ("disputes", "author"), ("reproductions", "author")]
)
def test_me_needs_a_key(path: str, name: str) -> None:
    answer = APIClient().get(f"/api/v1/{path}/", {name: "me"})
    assert answer.status_code == 401
    assert "key" in answer.json()["error"]["message"]
    assert asked(f"/api/v1/{path}/", **{name: "me"}).status_code == 200
