"""The runner API over a real socket: a stranger is refused before a byte of its body is read."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from django.conf import settings
from django.db import connection

from benchmarks.evidence.signing import generate_key
from bounty.services.runners.maintenance import retire
from gainshare.accounts.services import create_api_key
from gainshare.local.services import web_command
from tests.bounty.bounty_world import World
from tests.gainshare.gateway.gateway_stack import Process, free_port

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(settings.ROOT)
LARGE = 64 * 1024 * 1024
PATIENCE_S = 20.0
WAITS_S = 1.0  # long enough for an answer that does not wait for the body
PATHS = ["lease/", "runs/00000000-0000-0000-0000-000000000000/evidence/", "waiting/", "no/such/address/"]


def database_url() -> str:
    database = connection.settings_dict
    password = f":{quote(str(database['PASSWORD']), safe='')}" if database["PASSWORD"] else ""
    port = f"&port={database['PORT']}" if database["PORT"] else ""
    return f"postgresql://{quote(str(database['USER']))}{password}@/{database['NAME']}?host={database['HOST']}{port}"


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[int]:
    """The port of a web process as production starts it, on the test's database."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "gainshare.config.settings",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "GAINSHARE_BLOB_ROOT": str(settings.BLOB_ROOT),
        "BROKER_URL": "memory://",
    }
    web = Process(
        arguments=list(web_command("--host", "127.0.0.1", "--port", str(port))),
        environment=environment,
        log=tmp_path / "web.log",
        health=f"http://127.0.0.1:{port}/api/v1/runner/me/",
    )
    web.start()
    try:
        web.wait_until_ready()
        yield port
    finally:
        web.kill()


def head(path: str, *fields: str) -> bytes:
    lines = [
        f"POST /api/v1/runner/{path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def heard(port: int, sent: bytes, *, within_s: float = PATIENCE_S) -> bytes:
    """What the server says to these bytes until it closes the connection, or until the time is over."""
    said = b""
    deadline = time.monotonic() + within_s
    with closing(socket.create_connection(("127.0.0.1", port), timeout=within_s)) as client:
        client.sendall(sent)
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                piece = client.recv(65_536)
            except TimeoutError:
                break
            if not piece:
                return said
            said += piece
    return said + b"(still open)"


def refusal(said: bytes) -> tuple[int, str]:
    """Status and code of an answer that ended with the connection."""
    assert said.startswith(b"HTTP/1.1 ") and not said.endswith(b"(still open)"), said
    top, _, body = said.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)["error"]["code"]


@pytest.fixture
def tokens(site: int) -> dict[str, tuple[str, ...]]:
    """Header fields by who sends them, none of whom is a runner."""
    world = World()
    retired, was_valid = world.add_runner(generate_key())
    retire(actor=world.mira, name=retired.name, reason="gone")
    _, key = create_api_key(user=world.mira, name="maintain", scopes=["maintain"])
    return {
        "nobody": (),
        "an unknown token": ("Authorization: Bearer gsr_" + "0" * 64,),
        "a retired runner": (f"Authorization: Bearer {was_valid}",),
        "a maintainer's key": (f"Authorization: Bearer {key}",),
        "not a token": ("Authorization: Basic Zm9vOmJhcg==",),
        "not even text": ("Authorization: Bearer gsr_\xff\xfe",),
    }


def test_a_stranger_is_refused_before_the_body_is_sent(site: int, tokens: dict[str, tuple[str, ...]]) -> None:
    codes = {
        "an unknown token": "invalid_token",
        "a retired runner": "invalid_token",
        "not even text": "invalid_token",
    }
    for who, fields in tokens.items():
        for path in PATHS:
            for announced in (f"Content-Length: {LARGE}", "Transfer-Encoding: chunked"):
                said = heard(site, head(path, announced, *fields))
                assert refusal(said) == (401, codes.get(who, "not_authenticated")), (who, path, announced)
                assert b"www-authenticate: bearer" in said.lower()


def test_a_client_that_asks_first_is_never_told_to_continue(site: int) -> None:
    said = heard(site, head("lease/", f"Content-Length: {LARGE}", "Expect: 100-continue"))
    assert b"100 Continue" not in said
    assert refusal(said) == (401, "not_authenticated")


def test_a_runner_is_heard_out_and_answered(site: int) -> None:
    world = World()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{site}/api/v1/runner/", headers={"Authorization": f"Bearer {world.token}"}
    ) as client:
        assert client.get("me/").json()["id"] == str(world.runner.pk)
        assert client.post("waiting/", json={}).status_code == 204
        assert client.post("waiting/").status_code == 204
        large = client.post("lease/", json={"run_id": "x" * 5_000_000, "fingerprint": {}})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    token = f"Authorization: Bearer {world.token}"
    assert heard(site, head("lease/", f"Content-Length: {LARGE}", token), within_s=WAITS_S) == b"(still open)"
    said = heard(
        site, head("lease/", f"Content-Length: {LARGE}", token, "Expect: 100-continue"), within_s=WAITS_S
    )
    assert said.startswith(b"HTTP/1.1 100 Continue")


def test_what_has_no_body_is_refused_by_the_same_rules(site: int) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"http://127.0.0.1:{site}/api/v1/runner/me/", trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_authenticated")
