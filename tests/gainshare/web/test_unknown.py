"""Unknown addresses: programs get JSON in the API's shape, people get a page."""

from typing import Any

import pytest
from django.test import Client

from gainshare.accounts.errors import error_body
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/",
        "/api/v1/",
        "/api/v2/bounties/",
        "/api/v1/bountys/",
        "/api/v1/submissions/5/",
        "/api/v1/a\u2028b/",
    ],
)
def test_below_api_the_answer_is_json(method: str, path: str) -> None:
    answer = Client(enforce_csrf_checks=True).generic(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
    error = answer.json()["error"]
    assert error["code"] == "not_found"
    assert "/api/reference/" in error["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/", "/v1/engines", "/v1/chat/completions/", "/v1/models/../x"])
def test_below_v1_it_is_openais(method: str, path: str) -> None:
    answer = Client(enforce_csrf_checks=True).generic(method, path)
    assert answer["Content-Type"] == "application/json"
    assert answer.status_code in (401, 404, 405)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_read_without_the_last_slash_is_redirected_and_a_change_is_told() -> None:
    read = Client().get("/api/v1/bounties?state=open")
    assert (read.status_code, read["Location"]) == (301, "/api/v1/bounties/?state=open")
    change = Client().post("/api/v1/bounties", {}, content_type="application/json")
    assert change.status_code == 404
    assert "/api/v1/bounties/" in change.json()["error"]["message"]


def test_a_redirect_stays_on_this_site() -> None:
    for path in (
        "//evil.example/api",
        "/api//evil.example",
        "/api/%2F%2Fevil.example",
        "/api/v1/\\evil.example",
    ):
        answer = Client().get(path)
        assert not answer.get("Location", "/").startswith("//") and answer.status_code != 500


def test_people_get_a_page() -> None:
    answer = Client().get("/bountys/")
    assert answer.status_code == 404
    assert "There is nothing here" in answer.content.decode()


def test_a_key_in_an_address_is_not_repeated() -> None:
    raw = "gs_0123456789ab_" + "0" * 64
    answer = Client().get(f"/api/v1/{raw}/")
    assert raw not in answer.content.decode()
    assert answer.json() == error_body("not_found", answer.json()["error"]["message"])


@pytest.mark.parametrize("host", ["evil.example", "a b"])
def test_a_host_that_is_not_ours_is_refused_in_json(host: str) -> None:
    answer = Client().get("/api/v1/bounties/", headers={"host": host})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/json")
    assert answer.json()["error"]["code"] == "bad_request"


LISTS = [
    "/bounties/",
    "/submissions/",
    "/runners/",
    "/lineages/",
    "/usage/",
    "/credits/",
    "/keys/",
    "/treasury/",
]


@pytest.mark.parametrize("page", ["9999", "0", "-1", "x", "1e3", "9" * 5000])
@pytest.mark.parametrize("path", LISTS)
def test_a_page_that_a_list_does_not_have_is_404(path: str, page: str) -> None:
    client = Client()
    client.force_login(make_user("maintainer"))
    answer: Any = client.get(path, {"page": page})
    assert answer.status_code == 404
    assert "This list has only one page" in answer.content.decode()
    for good in ({"page": "1"}, {"page": ""}, {}):
        assert client.get(path, good).status_code == 200
