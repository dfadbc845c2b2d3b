"""The ASGI handler of /v1/, and the cache of recently valid keys. No node, no database."""

from typing import Any

import httpx
import pytest
from django.core.exceptions import RequestAborted

from gainshare.gateway import known_keys
from gainshare.gateway.asgi import BareHandler, with_gateway
from gainshare.gateway.known_keys import KnownKeys
from gainshare.gateway.requests import MAX_BODY_BYTES


async def site(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Stands for the site: answers everything with its own name."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the site"})


async def asked(method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(with_gateway(site))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize("path", ["/", "/bounties/", "/api/v1/usage/", "/v1", "/v10/models", "/static/v1/x"])
async def test_other_addresses_go_to_the_site(path: str) -> None:
    assert (await asked("GET", path)).text == "the site"


async def test_the_gateway_answers_without_the_sites_middleware() -> None:
    answer = await asked("POST", "/v1/chat/completions", json={}, headers={"Cookie": "sessionid=x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert (await asked("DELETE", "/v1/nothing/here")).json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_ones_there_are(method: str, path: str, allowed: str) -> None:
    answer = await asked(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_models_can_be_asked_for_their_headers_alone() -> None:
    assert (await asked("HEAD", "/v1/models")).status_code == 401  # as GET without a key


async def test_of_a_body_that_has_no_end_no_more_is_kept_than_shows_it() -> None:
    pieces = [b"x" * (1 << 20)] * 64
    sent = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting = iter([*sent, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(waiting)

    body = await BareHandler().read_body(receive)
    assert len(body.read()) == MAX_BODY_BYTES + 1


async def test_a_client_that_leaves_while_it_sends_is_let_go() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(RequestAborted):
        await BareHandler().read_body(receive)


def test_a_key_is_known_for_a_minute_and_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(known_keys.time, "monotonic", lambda: now[0])
    keys = KnownKeys()
    assert not keys.has("gs_a")
    keys.remember("gs_a")
    assert keys.has("gs_a") and not keys.has("gs_b")
    now[0] += known_keys.REMEMBERED_S
    assert not keys.has("gs_a")
    keys.remember("gs_a")
    keys.forget("gs_a")
    keys.forget("gs_never_seen")
    assert not keys.has("gs_a")


def test_the_memory_of_keys_is_bounded_and_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_keys, "MOST", 3)
    keys = KnownKeys()
    for name in ("a", "b", "c", "a", "d"):
        keys.remember(f"gs_{name}")
    assert [keys.has(f"gs_{name}") for name in "abcd"] == [True, False, True, True]
    assert "gs_" not in repr(vars(keys))
