"""A node before another node, asked by the unmodified openai client: the same answers, counters and refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from model.serving.node.host import Load
from model.serving.upstream.probe import upstream_loader
from tests.model.serving.node.node_in_process import ServedNode, bundled, serving

pytestmark = pytest.mark.slow

KEY, TOKEN = "key-of-the-server", "token-of-the-front"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
QUESTION: list[Any] = [{"role": "user", "content": "What does a random model say?"}]
ASK: dict[str, Any] = {
    "model": "tiny", "messages": QUESTION, "max_tokens": 12, "seed": 3, "extra_body": {"ignore_eos": True},
}  # fmt: skip


def behind(url: str, key: str = KEY) -> Load:
    return upstream_loader(f"{url}/v1", key, model=None, tokenizer_folder=None, max_context=None)


@pytest.fixture(scope="module")
def server() -> Iterator[ServedNode]:
    with serving(bundled(), token=KEY) as node:
        yield node


@pytest.fixture(scope="module")
def front(server: ServedNode) -> Iterator[ServedNode]:
    with serving(behind(server.url), token=TOKEN) as node:
        yield node


def client(node: ServedNode, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key=key, max_retries=0, timeout=60)


def idle(node: ServedNode, key: str) -> bool:
    """Whether the node gets idle within a minute."""
    for _ in range(1200):
        stats = httpx.get(f"{node.url}/stats", headers={"Authorization": f"Bearer {key}"}, timeout=60).json()
        if stats["running"] == stats["waiting"] == stats["answering"] == 0:
            return True
        time.sleep(0.05)
    return False


def test_answers_and_counters_are_those_of_the_server(server: ServedNode, front: ServedNode) -> None:
    asked = {**ASK, "n": 2, "logprobs": True, "top_logprobs": 2}
    direct = client(server, KEY).chat.completions.create(**asked)
    through = client(front, TOKEN).chat.completions.create(**asked)
    assert [c.message.content for c in through.choices] == [c.message.content for c in direct.choices]
    assert [c.finish_reason for c in through.choices] == ["length", "length"]
    entries = [(c.choices[0].logprobs.content or []) for c in (through, direct) if c.choices[0].logprobs]
    assert [entry.token for entry in entries[0]] == [entry.token for entry in entries[1]]
    # the second request may find its prompt cached, which rounds a little differently in plain torch
    assert [e.logprob for e in entries[0]] == pytest.approx([e.logprob for e in entries[1]], abs=1e-4)
    assert through.usage is not None and direct.usage is not None
    assert through.usage.completion_tokens == direct.usage.completion_tokens == 24
    assert through.usage.prompt_tokens == direct.usage.prompt_tokens
    counted = (through.usage.model_extra or {})["gainshare"]["counted_by"]
    assert counted == {"prompt_tokens": "upstream", "completion_tokens": "upstream"}


def test_a_stream_carries_counters_that_only_grow(front: ServedNode) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client(front, TOKEN).chat.completions.create(**ASK, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks) and counts == sorted(counts) and counts[-1] == 12
    assert chunks[-1].choices == [] and chunks[-2].choices[0].finish_reason == "length"


def test_the_meters_endpoints_work_through_the_front(server: ServedNode, front: ServedNode) -> None:
    (model,) = client(front, TOKEN).models.list().data
    assert model.id == "tiny" and (model.model_extra or {})["max_context"] == 512
    body = {"model": "tiny", "messages": QUESTION}
    counts = [
        httpx.post(f"{node.url}/tokenize", json=body, headers={"Authorization": f"Bearer {key}"}).json()[
            "count"
        ]
        for node, key in ((server, KEY), (front, TOKEN))
    ]
    assert counts[0] == counts[1] > 0
    assert httpx.get(f"{front.url}/ready").json() == {"status": "ready", "model": "tiny"}
    assert "gainshare_node_miscounted_total 0.0" in httpx.get(f"{front.url}/metrics", headers=HEADERS).text


def test_refusals_of_either_are_told_by_name(front: ServedNode) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(front, TOKEN).chat.completions.create(**{**ASK, "max_tokens": 5000})
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as theirs:
        client(front, TOKEN).chat.completions.create(**ASK, logit_bias={"9999": 1})
    assert theirs.value.param == "logit_bias", "only the server knows its vocabulary"


def test_a_client_that_leaves_the_front_frees_the_server(server: ServedNode, front: ServedNode) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 500, "stream": True, "ignore_eos": True}
    with httpx.stream(
        "POST", f"{front.url}/v1/completions", json=body, headers=HEADERS, timeout=60
    ) as answer:
        next(answer.iter_lines())
    assert idle(front, TOKEN) and idle(server, KEY)


def test_a_server_that_dies_mid_stream_is_told_in_the_stream_and_by_readiness() -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 500, "stream": True, "ignore_eos": True}
    with ExitStack() as stack:
        inner = ExitStack()
        dying = inner.enter_context(serving(bundled(), token=KEY, drain_s=0.0))
        front = stack.enter_context(serving(behind(dying.url), token=TOKEN))
        url = f"{front.url}/v1/completions"
        with httpx.stream("POST", url, json=body, headers=HEADERS, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            inner.close()
            rest = [line for line in lines if line]
        if rest[-1] != "data: [DONE]":  # the answer may have been complete already
            assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "upstream_failed"
        refused = httpx.post(url, json={**body, "stream": False}, headers=HEADERS, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_unreachable")
        time.sleep(2.1)  # so long "it answers" is believed
        assert httpx.get(f"{front.url}/ready", timeout=60).json() == {"status": "upstream_unreachable"}


def test_a_wrong_key_keeps_the_front_from_starting(server: ServedNode, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="refuses this node's key"), serving(behind(server.url, "wrong")):
        pass
