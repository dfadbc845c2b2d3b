"""No key, token or secret is in an error or a log line, whatever GitHub answers."""

import base64
import logging
import time

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pytest_django import Settings

from bounty.github.app.app_client import AppClient
from bounty.github.app.client import client_for
from bounty.github.app.credentials import BAD_KEY, NO_APP, PLAIN_HTTP
from bounty.github.app.facts import GitHubError, GitHubGone
from tests.bounty.github.app.conftest import Connected


def _other_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _secrets(connected: Connected) -> list[str]:
    app = connected.standin.app
    body = "".join(connected.standin.private_key.splitlines()[1:-1])
    tokens = list(connected.standin.hub.state.tokens)
    assert tokens
    return [body[:40], body[40:80], app.webhook_secret, app.client_secret, *tokens]


def test_no_secret_is_in_an_error_or_a_log_line(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connected.pull()
    client = connected.client
    said: list[str] = []

    def attempt() -> None:
        with pytest.raises(GitHubError) as raised:
            client.create_comment("octo/model", 7, "text")
        seen: BaseException | None = raised.value
        while seen is not None:
            said.append(repr(seen) + str(seen.__dict__))
            seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)

    client.create_comment("octo/model", 1, "works")
    attempt()  # no such pull request
    secrets = _secrets(connected)
    connected.standin.set_permissions(connected.opened, {"metadata": "read"})
    connected.standin.revoke_tokens()
    attempt()  # 401
    attempt()  # 403: no permission
    secrets += connected.standin.hub.state.tokens
    connected.standin.suspend(connected.opened)
    attempt()
    connected.standin.close()
    attempt()  # no connection
    everything = "\n".join([*said, caplog.text, *(record.getMessage() for record in caplog.records)])
    assert len(said) >= 5
    assert not [secret for secret in secrets if secret in everything]


@pytest.mark.parametrize(
    "key", ["not a key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"]
)
def test_a_bad_key_is_said_without_being_shown(connected: Connected, settings: Settings, key: str) -> None:
    settings.GITHUB_PRIVATE_KEY = key
    with pytest.raises(GitHubError) as raised:
        client_for(connected.installation)
    assert str(raised.value) == BAD_KEY


def test_a_key_of_another_kind_is_refused(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_PRIVATE_KEY = (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode()
    )
    with pytest.raises(GitHubError, match="not an RSA private key"):
        client_for(connected.installation)


def test_a_key_in_one_line_is_read(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_PRIVATE_KEY = settings.GITHUB_PRIVATE_KEY.replace("\n", "\\n")
    assert AppClient().app().slug == connected.standin.app.slug


def test_without_an_app_it_says_what_to_do(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_APP_ID = ""
    with pytest.raises(GitHubError) as raised:
        client_for(connected.installation)
    assert str(raised.value) == NO_APP


def test_tokens_are_not_sent_in_clear_text(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_API_URL = "http://github.example.org/api/v3"
    with pytest.raises(GitHubError) as raised:
        client_for(connected.installation)
    assert str(raised.value) == PLAIN_HTTP


def test_the_key_of_another_app_is_said(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_PRIVATE_KEY = _other_key()
    with pytest.raises(GitHubError, match="belong together"):
        client_for(connected.installation).pull_request("octo/model", 1)
    with pytest.raises(GitHubError, match="belong together"):
        AppClient().app()


# -- What the stand-in refuses, as GitHub does -----------------------------------------------------


def _claims(connected: Connected, **changed: object) -> dict[str, object]:
    now = int(time.time())
    return {"iat": now - 60, "exp": now + 300, "iss": str(connected.standin.app.github_id), **changed}


def _status(connected: Connected, token: str) -> int:
    return requests.get(
        f"{connected.standin.api_url}/app", headers={"Authorization": f"Bearer {token}"}, timeout=10
    ).status_code


def test_a_good_signature_is_taken(connected: Connected) -> None:
    good = jwt.encode(_claims(connected), connected.standin.private_key, algorithm="RS256")
    assert _status(connected, good) == 200


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"exp": 1}, 401),
        ({"exp": int(time.time()) + 3600}, 401),
        ({"exp": None}, 401),
        ({"iat": int(time.time()) + 600}, 401),
        ({"iss": "1"}, 404),
    ],
)
def test_expired_and_other_peoples_signatures_are_refused(
    connected: Connected, changed: dict[str, object], status: int
) -> None:
    token = jwt.encode(_claims(connected, **changed), connected.standin.private_key, algorithm="RS256")
    assert _status(connected, token) == status


def test_forged_signatures_are_refused(connected: Connected) -> None:
    claims = _claims(connected)
    assert _status(connected, jwt.encode(claims, _other_key(), algorithm="RS256")) == 401
    assert _status(connected, jwt.encode(claims, "x" * 32, algorithm="HS256")) == 401
    assert _status(connected, jwt.encode(claims, None, algorithm="none")) == 401
    head, _, signature = jwt.encode(claims, connected.standin.private_key, algorithm="RS256").split(".")
    other = base64.urlsafe_b64encode(b'{"iss":"1204417","iat":1,"exp":99999999999}').decode().rstrip("=")
    assert _status(connected, f"{head}.{other}.{signature}") == 401


def test_expired_and_foreign_tokens_are_refused_and_bought_again(connected: Connected) -> None:
    connected.pull()
    client = connected.client
    assert client.pull_request("octo/model", 1).number == 1
    connected.standin.pass_time(hours=2)
    with pytest.raises(GitHubError, match="credentials"):
        client.pull_request("octo/model", 1)
    assert client.pull_request("octo/model", 1).number == 1
    other = connected.standin.add_repository("somebody/private", is_private=True)
    theirs = connected.standin.install([other])
    assert theirs.github_id != connected.opened.github_id
    with pytest.raises(GitHubGone):
        client.permission("somebody/private", "mira") and client.pull_request("somebody/private", 1)
