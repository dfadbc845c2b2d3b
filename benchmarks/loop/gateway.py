"""Latency that the gateway adds before the first token: the same request through it and straight to the node, interleaved."""

import statistics
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.loop.commands import local_stack
from benchmarks.report import Row

MODEL = "tiny"
TARGET_MS = 10.0
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name three primes."}],
    "max_tokens": 8,
    "temperature": 0,
    "stream": True,
}


def gateway_row(env: Mapping[str, str], *, port: int, requests: int) -> Row:
    """The median over `requests` interleaved pairs of (first token by gateway) - (first token by node), in ms."""
    with local_stack(model=MODEL, port=port, env=env) as state:
        site, node = state["url"], state["node_url"]
        key = Path(state["files"]["admin_key"]).read_text().strip()
        token = Path(state["files"]["node_token"]).read_text().strip()
        grant(site, key)
        with httpx.Client(timeout=30) as by_gateway, httpx.Client(timeout=30) as by_node:
            for _ in range(5):  # connections, caches and code paths warm on both sides
                _first_token_ms(by_gateway, site, key)
                _first_token_ms(by_node, node, token)
            pairs = [
                (_first_token_ms(by_gateway, site, key), _first_token_ms(by_node, node, token))
                for _ in range(requests)
            ]
    added = [through - direct for through, direct in pairs]
    median = round(statistics.median(added), 2)
    quartiles = statistics.quantiles(added, n=4)
    how = (
        f"{requests} interleaved pairs, model {MODEL}; node alone {statistics.median(d for _, d in pairs):.1f} ms; "
        f"quartiles {quartiles[0]:.1f} .. {quartiles[2]:.1f} ms"
    )
    return Row("gateway adds before the first token", median, "ms", "<= 10 ms", median <= TARGET_MS, how)


def grant(site: str, key: str) -> None:
    """Fund the treasury and give the key's owner credits to spend."""
    auth = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{site}/api/v1/", headers=auth, timeout=30) as http:
        amount = 10_000_000_000
        for path, extra in (
            ("treasury/fund/", {}),
            ("grants/", {"username": http.get("users/me/").json()["username"], "source": "starter"}),
        ):
            body: dict[str, Any] = {
                "transfer_id": str(uuid.uuid4()),
                "amount_microcredits": amount,
                "memo": "loop",
            }
            http.post(path, json={**body, **extra}).raise_for_status()


def _first_token_ms(http: httpx.Client, base: str, token: str) -> float:
    """Milliseconds from sending the request until the first streamed piece of text."""
    begun = time.perf_counter()
    first = None
    auth = {"Authorization": f"Bearer {token}"}
    with http.stream("POST", f"{base}/v1/chat/completions", json=BODY, headers=auth) as response:
        if response.is_error:
            response.read()
            response.raise_for_status()
        for line in response.iter_lines():
            if first is None and '"content"' in line:
                first = time.perf_counter()
    if first is None:
        raise RuntimeError("the stream ended without a token")
    return (first - begun) * 1000
