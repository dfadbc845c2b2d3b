"""Clients that misbehave, caches that run out, models that cannot be loaded: a clear error each, others unharmed.

Nodes are real HTTP servers; where a process is the point (signals, limits of memory) it is one.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.checkpoint import FORMAT
from model.config import ModelConfig
from model.serving.metering.generation import EngineLimits
from model.serving.node.app import Node
from model.serving.node.backend import Ask
from model.serving.node.host import Host
from model.transformer import Transformer
from tests.model.serving.node.node_in_process import ServedNode, bundled, serving
from tests.model.serving.node.scripted_backend import ScriptedBackend, ScriptedRun
from tests.model.serving.node.test_loading import hf_folder, spoilt

pytestmark = pytest.mark.slow

TOKEN = "token-of-the-faults"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
N_CLIENTS = 200
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}


def body(max_tokens: int = 20, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "abc", "max_tokens": max_tokens, "ignore_eos": True, **fields}


def wait_until_idle(url: str, timeout_s: float = 60) -> dict[str, int]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        stats: dict[str, int] = httpx.get(f"{url}/stats", headers=HEADERS, timeout=30).json()
        if stats["running"] == stats["waiting"] == stats["answering"] == 0:
            return stats
        time.sleep(0.02)
    raise AssertionError(f"the node did not get idle: {stats}")


@pytest.fixture(scope="module")
def node() -> Iterator[ServedNode]:
    with serving(bundled(EngineLimits(max_waiting=2 * N_CLIENTS)), token=TOKEN) as node:
        yield node


async def streamed(url: str, i: int, *, leaves: bool) -> str:
    """One client's whole stream; one that leaves closes its connection after the first bytes."""
    host, port = url.removeprefix("http://").split(":")
    payload = json.dumps(body(12, seed=i, stream=True)).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        end = f"Connection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
        writer.write((head + end).encode() + payload)
        await writer.drain()
        first = await reader.read(64)
        return "" if leaves else (first + await reader.read()).decode()
    finally:
        writer.close()


def test_two_hundred_clients_of_which_half_leave(node: ServedNode) -> None:
    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(streamed(node.url, i, leaves=i % 2 == 1) for i in range(N_CLIENTS)))

    answers = asyncio.run(all_of_them())
    whole = [answer for answer in answers if answer]
    assert len(whole) == N_CLIENTS // 2
    for answer in whole:
        assert "data: [DONE]" in answer and '"finish_reason": "length"' in answer
    stats = wait_until_idle(node.url)
    assert stats["kv_blocks_held"] == 0, "those who left hold nothing"
    assert (
        httpx.post(f"{node.url}/v1/completions", json=body(), headers=HEADERS, timeout=60).status_code == 200
    )


class Undecided(ScriptedBackend):
    """Never takes a request, as a server behind a node that holds its headers back."""

    async def start(self, ask: Ask) -> ScriptedRun:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("it was to be cancelled")


def test_a_client_that_leaves_before_its_request_is_taken_ends_it() -> None:
    backend = Undecided("tiny")
    with serving(lambda *_: backend, token=TOKEN) as node:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{node.url}/v1/completions", json=body(), headers=HEADERS, timeout=0.3)
        deadline = time.monotonic() + 60
        while not backend.cancelled:
            assert time.monotonic() < deadline, "the request goes on without its client"
            time.sleep(0.02)
        while node.host.current.n_answering:
            time.sleep(0.02)
        shown = httpx.get(f"{node.url}/metrics", headers=HEADERS, timeout=60).text
    assert 'gainshare_node_requests_total{end="cancelled",endpoint="completion"} 1.0' in shown


async def test_a_client_that_leaves_while_it_sends_is_no_failure_of_the_node() -> None:
    host = Host(lambda *_: ScriptedBackend(), drain_s=1, on_failure=lambda: None)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": []}
    await Node(host, token=None).app()(scope, receive, send)
    assert sent[0]["status"] == 499


class Buggy(ScriptedBackend):
    async def start(self, ask: Ask) -> ScriptedRun:
        raise RuntimeError("nobody foresaw this")


async def test_every_error_is_counted_by_its_code_bugs_too() -> None:
    host = Host(lambda *_: Buggy("tiny"), drain_s=1, on_failure=lambda: None)
    await host.start()
    transport = httpx.ASGITransport(Node(host, token=None).app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        assert (await client.post("/v1/completions", json=body())).json()["error"]["code"] == "internal_error"
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.get("/tokenize")).status_code == 405
        shown = (await client.get("/metrics")).text
    for code in ("internal_error", "not_found", "method_not_allowed"):
        assert f'gainshare_node_refusals_total{{code="{code}"}} 1.0' in shown


def test_one_client_that_fills_the_cache_shuts_nobody_out() -> None:
    """A cache of 128 tokens, and eight requests of one account that want 100 each."""
    with serving(bundled(EngineLimits(max_cache_bytes=64 << 10)), token=TOKEN) as node:
        url = f"{node.url}/v1/completions"

        def ask(owner: str, n_tokens: int) -> httpx.Response:
            headers = {**HEADERS, "X-Gainshare-Owner": owner}
            return httpx.post(url, json=body(n_tokens, temperature=0), headers=headers, timeout=120)

        refused = ask("hog", 400)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (
            400,
            "context_length_exceeded",
            "prompt",
        )
        assert httpx.post(f"{node.url}/tokenize", json=CHAT, headers=HEADERS).json()["max_context"] == 128
        filled = httpx.post(f"{node.url}/v1/chat/completions", json=CHAT, headers=HEADERS, timeout=120).json()
        assert (filled["usage"]["total_tokens"], filled["choices"][0]["finish_reason"]) == (128, "length")
        alone = ask("alone", 90).json()["choices"][0]["text"]
        with ThreadPoolExecutor(10) as pool:
            hogs = [pool.submit(ask, "hog", 90) for _ in range(8)]
            others = [pool.submit(ask, "other", 5) for _ in range(2)]
            answers = [each.result() for each in (*hogs, *others)]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert {answer.json()["choices"][0]["text"] for answer in answers[:8]} == {alone}
        assert wait_until_idle(node.url)["kv_blocks_held"] == 0


@pytest.mark.parametrize(("n", "max_tokens"), [(1, 300), (16, 30)])
def test_one_account_cannot_fill_the_whole_queue(n: int, max_tokens: int) -> None:
    """Requests count, not their answers: sixteen answers each take no more of the queue than one."""
    limits = EngineLimits(max_running=1, max_waiting=8)
    with serving(bundled(limits), token=TOKEN) as node, ThreadPoolExecutor(16) as pool:

        def ask(owner: str) -> int:
            headers = {**HEADERS, "X-Gainshare-Owner": owner}
            asked = body(max_tokens, n=n)
            return httpx.post(
                f"{node.url}/v1/completions", json=asked, headers=headers, timeout=120
            ).status_code

        flood = [pool.submit(ask, "flood") for _ in range(14)]

        def is_flooded() -> bool:
            stats = httpx.get(f"{node.url}/stats", headers=HEADERS, timeout=60).json()
            return bool(stats["waiting"] >= 4 and stats["steps"] > 1)  # the first one's answers have begun

        while not is_flooded():
            time.sleep(0.005)
        assert ask("other") == 200
        statuses = [each.result() for each in flood]
    assert set(statuses) == {200, 429}


def sparse_model(folder: Path, d_model: int) -> int:
    """A model folder whose weights are one large hole of zeros; returns their bytes."""
    config = ModelConfig(
        name="large", vocab_size=261, d_model=d_model, n_layers=4, n_heads=8, n_kv_heads=8, d_head=d_model // 8,
        d_ff=4 * d_model, max_context=64,
    )  # fmt: skip
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    header, offset = {}, 0
    for name, tensor in state.items():
        end = offset + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)
    document = {"format": FORMAT, "model": config.to_dict(), "metadata": {"stop_tokens": [1]}}
    (folder / "config.json").write_text(json.dumps(document))
    return offset


def address_space(pid: int) -> int:
    """Bytes of virtual memory that a process has."""
    found = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture
def swappable(start_node: Callable[..., Any], tmp_path: Path) -> Any:
    (tmp_path / "token").write_text(TOKEN)
    return start_node("--model", "tiny", "--token-file", str(tmp_path / "token"), "--drain-s", "60")


def test_failed_swaps_leave_the_old_model_serving_and_sigterm_lets_it_end(
    swappable: Any, tmp_path: Path
) -> None:
    """One process for all of it: no room for the new model, damaged ones, none; then the end."""
    client = httpx.Client(base_url=swappable.url, headers=HEADERS, timeout=120)

    def swap(model: object) -> tuple[int, str]:
        answer = client.post("/admin/swap", json={"model": str(model)})
        assert "tiny still serves" in answer.json()["error"]["message"]
        assert client.post("/v1/completions", json=body()).status_code == 200
        return answer.status_code, answer.json()["error"]["code"]

    client.post("/v1/completions", json=body())
    files = hf_folder(tmp_path / "served")
    n_bytes = sparse_model(tmp_path / "large", d_model=1024)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / "large" / name).write_text((files / name).read_text())
    pid = swappable.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + n_bytes // 2, before[1]))
    assert swap(tmp_path / "large") == (507, "out_of_memory")
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    (tmp_path / "large" / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    assert swap(tmp_path / "large") == (422, "model_not_usable")
    assert swap(spoilt(tmp_path / "spoilt")) == (422, "model_not_usable")
    assert swap(tmp_path / "none") == (404, "model_not_found")
    drains_before_it_ends(swappable, client)


def drains_before_it_ends(node: Any, client: httpx.Client) -> None:
    lasting = {**body(450, stream=True), "n": 16}  # one answer may be over before the questions below are
    with client.stream("POST", "/v1/completions", json=lasting) as answer:
        lines = answer.iter_lines()
        next(lines)
        node.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=node.url, headers=HEADERS, timeout=60) as other:
            while (ready := other.get("/ready")).status_code == 200:
                time.sleep(0.01)
            assert (ready.json()["status"], ready.headers["retry-after"]) == ("shutting_down", "2")
            refused = other.post("/v1/completions", json=body())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert other.get("/health").json()["status"] == "draining"
        assert "data: [DONE]" in list(lines)
    assert node.process.wait(timeout=60) == 0


LOADS_FOR_EVER = """
import time
from model.serving.node import command
command._bundled = lambda options: lambda name, on_death: time.sleep(3600)
command.main(["--model", "tiny", "--port", "0"])
"""


def test_a_node_told_to_end_while_its_model_loads_does_not_wait_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", LOADS_FOR_EVER], stderr=subprocess.PIPE, text=True) as node:
        try:
            assert node.stderr is not None
            url = re.findall(r"listens on (\S+)", node.stderr.readline())[0]
            while httpx.get(f"{url}/health", timeout=60).json() != {"status": "loading"}:
                time.sleep(0.05)
            node.send_signal(signal.SIGTERM)
            assert node.wait(timeout=60) == 0
        finally:
            node.kill()


def test_draining_breaks_off_what_takes_too_long() -> None:
    with serving(bundled(), token=TOKEN, drain_s=0.0) as node:
        request = body(500, stream=True)
        with httpx.stream(
            "POST", f"{node.url}/v1/completions", json=request, headers=HEADERS, timeout=60
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            node.drain()
            rest = [line for line in lines if line]
        node.thread.join(60)
        assert not node.thread.is_alive()
    assert (
        "data: [DONE]" in rest
        or json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
    )
