"""A user who signs in at the stand-in goes back with a code that can be exchanged once, by the App, for who they are."""

import base64
import hashlib
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.bounty.github.standin.conftest import Place

BACK = "http://127.0.0.1:8000/github/callback/"
JSON = {"Accept": "application/json"}


def _authorize(place: Place, **more: str) -> httpx.Response:
    query = {"client_id": place.standin.app.client_id, "redirect_uri": BACK, "state": "s t", **more}
    return httpx.get(f"{place.standin.url}/login/oauth/authorize", params=query)


def _code(answer: httpx.Response) -> str:
    assert answer.status_code == 302, answer.text
    return parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]


def _exchange(place: Place, code: str, **more: str) -> dict[str, str]:
    app = place.standin.app
    given = {"client_id": app.client_id, "client_secret": app.client_secret, "code": code, **more}
    answer = httpx.post(f"{place.standin.url}/login/oauth/access_token", data=given, headers=JSON)
    assert answer.status_code == 200
    told: dict[str, str] = answer.json()
    return told


def test_a_code_buys_a_token_that_says_who_it_is_once(place: Place) -> None:
    place.standin.sign_in(place.cora)
    answer = _authorize(place, scope="user:email")
    assert answer.headers["Location"].startswith(BACK)
    assert parse_qs(urlsplit(answer.headers["Location"]).query)["state"] == ["s t"]
    code = _code(answer)
    token = _exchange(place, code, redirect_uri=BACK)["access_token"]
    told = place.ask("GET", "/user", headers={"Authorization": f"Bearer {token}"}).json()
    assert (told["id"], told["login"]) == (place.cora.github_id, "cora")
    assert _exchange(place, code)["error"] == "bad_verification_code"


def test_a_code_ends_after_ten_minutes(place: Place) -> None:
    place.standin.sign_in(place.cora)
    code = _code(_authorize(place))
    place.standin.pass_time(minutes=11)
    assert _exchange(place, code)["error"] == "bad_verification_code"


def test_a_code_needs_the_secret_and_the_same_address(place: Place) -> None:
    place.standin.sign_in(place.cora)
    code = _code(_authorize(place))
    assert _exchange(place, code, client_secret="forged")["error"] == "incorrect_client_credentials"
    assert (
        _exchange(place, code, redirect_uri="http://127.0.0.1:8000/other/")["error"]
        == "redirect_uri_mismatch"
    )


def test_a_challenge_must_be_met(place: Place) -> None:
    place.standin.sign_in(place.cora)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"verifier").digest()).decode().rstrip("=")
    asked = {"code_challenge": challenge, "code_challenge_method": "S256"}
    assert "access_token" in _exchange(place, _code(_authorize(place, **asked)), code_verifier="verifier")
    assert _exchange(place, _code(_authorize(place, **asked)))["error"] == "bad_verification_code"
    stolen = _exchange(place, _code(_authorize(place, **asked)), code_verifier="guess")
    assert stolen["error"] == "bad_verification_code"


def test_who_is_not_signed_in_chooses_and_who_refuses_says_so(place: Place) -> None:
    page = _authorize(place)
    assert (page.status_code, "cora" in page.text, "mira" in page.text) == (200, True, True)
    assert _code(_authorize(place, login_as="mira"))
    place.standin.sign_in(place.cora)
    assert "error=access_denied" in _authorize(place, refuse="yes").headers["Location"]


@pytest.mark.parametrize("address", ["https://evil.example.org/", "//evil.example.org/", "http://10.0.0.1/"])
def test_nobody_is_sent_to_another_machine(place: Place, address: str) -> None:
    place.standin.sign_in(place.cora)
    assert _authorize(place, redirect_uri=address).status_code == 400


def test_a_users_token_is_no_installations(place: Place) -> None:
    token = {"Authorization": f"Bearer {place.standin.user_token(place.cora)}"}
    place.pull()
    assert (
        place.ask(
            "POST", "/repos/octo/model/issues/1/comments", json={"body": "x"}, headers=token
        ).status_code
        == 403
    )
    assert place.ask("GET", "/installation/repositories", headers=token).status_code == 403
    assert place.ask("GET", "/app", headers=token).status_code == 401
    assert place.ask("GET", "/user").status_code == 403  # nor is an installation's a user's
