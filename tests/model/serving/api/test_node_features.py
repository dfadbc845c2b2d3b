"""What requests may ask of a node beside text: several answers, log-probabilities, forms, urgency. Real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from model.serving.metering.engine import Engine
from tests.model.serving.node.node_in_process import ServedNode, bundled, serving

pytestmark = pytest.mark.slow

TOKEN = "token-of-the-features"
QUESTION: list[Any] = [{"role": "user", "content": "What does a random model say?"}]
IGNORE = {"ignore_eos": True}


@pytest.fixture(scope="module")
def node() -> Iterator[ServedNode]:
    with serving(bundled(), token=TOKEN, drain_s=300) as node:  # a busy machine takes long
        yield node


@pytest.fixture
def client(node: ServedNode) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key=TOKEN, max_retries=0, timeout=60)


@pytest.fixture
def raw(node: ServedNode) -> httpx.Client:
    return httpx.Client(base_url=node.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)


def chat(raw: httpx.Client, owner: str = "", **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 6, "seed": 1, **fields}
    headers = {"X-Gainshare-Owner": owner} if owner else {}
    return raw.post("/v1/chat/completions", json=body, headers=headers)


def test_several_answers_differ_and_are_the_same_streamed(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {
        "model": "tiny", "messages": QUESTION, "max_tokens": 8, "n": 3, "seed": 7, "extra_body": IGNORE,
    }  # fmt: skip
    whole = client.chat.completions.create(**ask)
    texts = [choice.message.content or "" for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    streamed = ["", "", ""]
    reasons: dict[int, str | None] = {}
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert streamed == texts and reasons == {0: "length", 1: "length", 2: "length"}
    alone = client.chat.completions.create(**{**ask, "n": 1})
    assert alone.choices[0].message.content == texts[0], "one more answer changes no other"


def test_log_probabilities_of_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        extra_body=IGNORE,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content) == 4
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (t.logprob for t in entry.top_logprobs), reverse=True
        )
    spelt = b"".join(bytes(entry.bytes or []) for entry in logprobs.content).decode(errors="ignore")
    assert (answer.choices[0].message.content or "").replace("\ufffd", "") == spelt


def test_log_probabilities_of_completions(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": "abc", "max_tokens": 5, "seed": 3, "extra_body": IGNORE}
    answer = client.completions.create(**ask, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens is not None and logprobs.top_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs or []) == len(logprobs.text_offset or []) == 5
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)
    chunks = list(client.completions.create(**ask, logprobs=2, stream=True))
    streamed = [
        token for chunk in chunks if (part := chunk.choices[0].logprobs) for token in part.tokens or []
    ]
    assert streamed == logprobs.tokens


def test_bias_and_penalties_decide_what_is_said(client: openai.OpenAI) -> None:
    def said(**settings: Any) -> str:
        extra = {**IGNORE, **settings.pop("extra", {})}
        return (
            client.completions.create(
                model="tiny", prompt="abc", max_tokens=12, temperature=0, extra_body=extra, **settings
            )
            .choices[0]
            .text
        )

    assert said(logit_bias={"90": 100}) == "Z" * 12
    assert said(logit_bias={"90": 100}, presence_penalty=-2) == "Z" * 12
    varied = said(logit_bias={"90": 100, "89": 99}, frequency_penalty=2)
    assert set(varied) == {"Y", "Z"}
    assert said(extra={"min_p": 1.0}) == said()


SCHEMA = {
    "type": "object",
    "properties": {"word": {"enum": ["yes", "no"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["word", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_follow_a_schema(raw: httpx.Client, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "word", "schema": SCHEMA, "strict": True}}
    answer = chat(raw, response_format=form, seed=seed, n=2, max_tokens=200).json()
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_any_object_will_do_for_json_mode(raw: httpx.Client) -> None:
    bias = {"125": 8}  # closing braces, or a random model goes on for long
    answer = chat(raw, response_format={"type": "json_object"}, logit_bias=bias, max_tokens=300).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)


def test_prefixes_are_reused_within_an_account_only(raw: httpx.Client) -> None:
    messages = [{"role": "user", "content": "The same long beginning. " * 8}]

    def cached(owner: str) -> int:
        usage = chat(raw, owner, messages=messages).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached("ada") == 0
    assert cached("ada") > 100
    assert cached("bob") == 0, "another account's prefix must not show"
    assert cached("") == 0


def test_an_owner_of_absurd_length_is_refused(raw: httpx.Client) -> None:
    assert chat(raw, "o" * 129).status_code == 400


def test_a_deadline_that_cannot_be_met_is_told(raw: httpx.Client) -> None:
    late = chat(raw, gainshare={"deadline_ms": 1}, max_tokens=400, ignore_eos=True)
    assert late.status_code == 504 or late.json()["choices"][0]["finish_reason"] == "deadline"
    if late.status_code == 504:
        assert late.json()["error"]["code"] == "deadline_exceeded"
    soon = chat(raw, gainshare={"deadline_ms": 60_000, "priority": -5})
    assert soon.status_code == 200


def test_readiness_stats_and_metrics_tell_the_engines_state(node: ServedNode, raw: httpx.Client) -> None:
    assert chat(raw).status_code == 200
    ready = httpx.get(f"{node.url}/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "model": "tiny"})
    stats = raw.get("/stats").json()
    assert stats["steps"] > 0 and stats["kv_blocks"] >= stats["kv_blocks_held"] >= 0
    assert httpx.get(f"{node.url}/metrics").status_code == 401
    shown = raw.get("/metrics")
    assert shown.headers["content-type"].startswith("text/plain")
    for name in ("step_seconds_bucket", "completion_tokens_total", "kv_blocks_held", "preemptions_total"):
        assert f"gainshare_node_{name}" in shown.text


def test_swapping_needs_a_token_of_the_node(raw: httpx.Client) -> None:
    assert httpx.post(raw.base_url.join("/admin/swap"), json={"model": "tiny"}).status_code == 401
    with serving(bundled()) as open_node:
        refused = httpx.post(f"{open_node.url}/admin/swap", json={"model": "tiny"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "token_needed")


def test_a_swap_while_an_answer_streams_cuts_neither(node: ServedNode, raw: httpx.Client) -> None:
    def engine() -> Engine:
        backend = node.host.current.backend
        return backend.engine  # type: ignore[attr-defined,no-any-return]

    old = engine()
    body = {"model": "tiny", "prompt": "a", "max_tokens": 450, "stream": True, "ignore_eos": True}
    with raw.stream("POST", "/v1/completions", json=body) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        swapped = raw.post("/admin/swap", json={"model": "tiny"})
        assert swapped.status_code == 200 and swapped.json()["previous"] == "tiny"
        assert chat(raw).status_code == 200
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in rest
    assert engine() is not old
    missing = raw.post("/admin/swap", json={"model": "no-such-model"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert chat(raw).status_code == 200
