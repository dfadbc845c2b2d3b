"""The ASGI side door for /v1/, and the memory of keys that were good a moment ago. No node, no database."""

from typing import Any

import httpx
import pytest

from gainshare.gateway import known_keys
from gainshare.gateway.asgi import with_side_door
from gainshare.gateway.known_keys import KnownKeys


async def site(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Stands for the site: answers everything with its own name."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the site"})


async def asked(method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(with_side_door(site))
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
    assert (await asked("GET", "/v1/chat/completions")).json()["error"]["code"] == "method_not_allowed"


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
