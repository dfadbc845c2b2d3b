"""A node process under all kinds of requests for a while: every answer is right or a clear refusal, and in the end its
memory, files and cache are back where they were.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

MIB = 1 << 20
WARM_UP_S = 8.0
N_CLIENTS = 4
QUESTION = [{"role": "user", "content": "Say something. " * 4}]

Ask = tuple[str, dict[str, Any], set[int]]


def request(draw: random.Random) -> Ask:
    """Path, body and the statuses that are right for it."""
    chat = {
        "model": "tiny",
        "messages": QUESTION,
        "max_tokens": draw.randint(1, 40),
        "seed": draw.randint(0, 9),
    }
    text = {"model": "tiny", "prompt": "p" * draw.randint(1, 300), "max_tokens": draw.randint(1, 60)}
    kinds: list[Ask] = [
        ("chat/completions", chat, {200, 429}),
        (
            "chat/completions",
            {**chat, "stream": True, "n": 3, "logprobs": True, "top_logprobs": 2},
            {200, 429},
        ),
        ("chat/completions", {**chat, "response_format": {"type": "json_object"}}, {200, 429}),
        ("completions", {**text, "stream": True, "ignore_eos": True}, {200, 429}),
        ("completions", {**text, "gainshare": {"deadline_ms": draw.randint(1, 30)}}, {200, 429, 504}),
        ("completions", {**text, "temperature": 9}, {400}),
        ("completions", {**text, "prompt": "p" * 600}, {400}),
        ("chat/completions", {**chat, "model": "none"}, {404}),
    ]
    return draw.choice(kinds)


def leave_early(url: str, body: dict[str, Any]) -> None:
    host, port = url.removeprefix("http://").split(":")
    payload = json.dumps({**body, "stream": True, "max_tokens": 200, "ignore_eos": True}).encode()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection.sendall(head.encode() + payload)
        connection.recv(64)


def client(url: str, seed: int, until: float, pause_s: float, seen: Counter[str]) -> None:
    """Asks until the time is over; what is wrong is counted under "wrong"."""
    draw = random.Random(seed)
    owner = {"X-Gainshare-Owner": f"account-{seed}"}
    with httpx.Client(base_url=f"{url}/v1/", headers=owner, timeout=120) as http:
        for i in itertools.count():
            if time.monotonic() > until:
                return
            path, body, right = request(draw)
            if i % 5 == 4:
                leave_early(url, {"model": "tiny", "prompt": "left"})
                seen["left"] += 1
            answer = http.post(path, json=body)
            is_right = answer.status_code in right and (answer.status_code == 200 or "error" in answer.json())
            seen[
                str(answer.status_code) if is_right else f"wrong {answer.status_code} {answer.text[:200]}"
            ] += 1
            time.sleep(pause_s)


def put_under_load(url: str, duration_s: float, pause_s: float, seed: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    until = time.monotonic() + duration_s
    threads = [
        threading.Thread(target=client, args=(url, seed + i, until, pause_s, seen)) for i in range(N_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def idle(url: str) -> dict[str, int]:
    for _ in range(600):
        stats: dict[str, int] = httpx.get(f"{url}/stats", timeout=60).json()
        if stats["running"] == stats["waiting"] == stats["answering"] == 0:
            return stats
        time.sleep(0.1)
    raise AssertionError(f"not idle: {stats}")


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def n_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def grown_by_soak(node: Any, duration_s: float, pause_s: float) -> int:
    """Bytes that the node's memory has grown by once it is idle again."""
    put_under_load(node.url, WARM_UP_S, pause_s, seed=0)
    idle(node.url)
    pid = node.process.pid
    memory, files = resident(pid), n_files(pid)
    seen = put_under_load(node.url, duration_s, pause_s, seed=100)
    stats = idle(node.url)
    time.sleep(1)
    grown = resident(pid) - memory
    assert not [kind for kind in seen if kind.startswith("wrong")], seen
    assert {"200", "400", "404", "left"} <= set(seen), seen
    assert stats["kv_blocks_held"] == 0
    assert n_files(pid) <= files + N_CLIENTS
    assert node.process.poll() is None
    return grown


@pytest.mark.long
def test_half_a_minute_of_everything_leaves_nothing_behind(start_node: Callable[..., Any]) -> None:
    assert grown_by_soak(start_node("--model", "tiny"), 30.0 - WARM_UP_S, pause_s=0.1) <= 24 * MIB


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ten_minutes_of_everything_leave_nothing_behind(start_node: Callable[..., Any]) -> None:
    assert grown_by_soak(start_node("--model", "tiny"), 600.0 - WARM_UP_S, pause_s=0.01) <= 48 * MIB
