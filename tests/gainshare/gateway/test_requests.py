"""Requests that the gateway accepts or refuses before it calls a node or the ledger. No database, no network."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.gateway.errors import BadRequest
from gainshare.gateway.requests import Endpoint, GenerationRequest, read_request

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> GenerationRequest:
    return read_request(json.dumps({"model": "tiny", "messages": HELLO, **fields}).encode(), Endpoint.CHAT)


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)
    return caught.value


def test_the_node_gets_the_prompt_the_settings_and_is_asked_for_counters_on_every_chunk() -> None:
    request = chat(temperature=0, top_p=0.5, stop="END", seed=7, user="me", metadata={"a": "b"})
    assert request.node_body(12) == {
        "model": "tiny",
        "messages": HELLO,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["END"],
        "seed": 7,
        "max_tokens": 12,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": float("nan")}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
        ({"temperature": 10**400}, "temperature", "decimal_above_max_value"),  # too large for a float
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": -3}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
            "unknown_parameter",
        ),
        ({"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value"),
        ({"frequency_penalty": "much"}, "frequency_penalty", "invalid_type"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"min_p": -0.1}, "min_p", "decimal_below_min_value"),
        ({"logit_bias": []}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"logit_bias": {"1": -(10**400)}}, "logit_bias", "decimal_below_min_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": 7}, "stop_token_ids", "invalid_type"),
        ({"stop_token_ids": ["7"]}, "stop_token_ids", "invalid_type"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "invalid_value"),
        ({"min_tokens": -1}, "min_tokens", "invalid_value"),
        ({"ignore_eos": 1}, "ignore_eos", "invalid_type"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        ({"response_format": "json"}, "response_format", "invalid_value"),
        ({"gainshare": {"priority": 1}}, "gainshare.priority", "invalid_value"),
        ({"gainshare": {"deadline_ms": 0}}, "gainshare.deadline_ms", "invalid_value"),
        ({"gainshare": {"speed": 1}}, "gainshare.speed", "unknown_parameter"),
        ({"gainshare": 1}, "gainshare", "invalid_type"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"prompt": "Hello"}, "prompt", "unknown_parameter"),
        ({"model": ""}, "model", "missing_parameter"),
        ({"model": 3}, "model", "missing_parameter"),
        ({"model": "tiny\0"}, "model", "invalid_value"),
        ({"model": "\ud800"}, "model", "invalid_value"),
        ({"messages": []}, "messages", "missing_parameter"),
        ({"messages": "Hello"}, "messages", "missing_parameter"),
        ({"messages": ["Hello"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "invalid_value",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(**fields)
    assert (error.param, error.code, error.status) == (param, code, 400)
    assert error.type == "invalid_request_error"


def test_neutral_values_of_unsupported_parameters_are_accepted() -> None:
    request = chat(n=1, tools=[], logprobs=False, response_format={"type": "text"}, logit_bias={})
    assert (request.sampling, request.n_answers) == ({}, 1)


@pytest.mark.parametrize("top_k", [-1, 0])
def test_no_top_k_may_be_written_as_vllms_users_do(top_k: int) -> None:
    assert chat(top_k=top_k).node_body(12)["top_k"] == top_k


def test_what_answers_are_asked_for_reaches_the_node() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    asked: dict[str, Any] = {
        "n": 3,
        "logprobs": True,
        "top_logprobs": 5,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "min_p": 0.1,
        "stop_token_ids": [7, 8],
        "min_tokens": 2,
        "logit_bias": {"7": -100.0},
        "response_format": form,
        "gainshare": {"priority": -3, "deadline_ms": 2000},
    }
    request = chat(**asked)
    assert request.n_answers == 3
    assert {name: request.node_body(12)[name] for name in asked} == asked
    completion = {"model": "tiny", "prompt": "a", "logprobs": 2}
    read = read_request(json.dumps(completion).encode(), Endpoint.COMPLETIONS)
    assert read.sampling == {"logprobs": 2}


def test_content_parts_are_joined_and_developer_becomes_system() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    request = chat(
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    )
    assert request.prompt["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]


def test_completions_take_one_text() -> None:
    def complete(**fields: Any) -> GenerationRequest:
        return read_request(json.dumps({"model": "tiny", **fields}).encode(), Endpoint.COMPLETIONS)

    assert complete(prompt="Once").prompt == {"prompt": "Once"}
    assert complete(prompt=["Once"]).prompt == {"prompt": "Once"}
    assert complete(prompt=[1, 2]).prompt == complete(prompt=[[1, 2]]).prompt == {"prompt": [1, 2]}
    assert complete(prompt="Once").default_tokens == 16
    refused_ones: list[dict[str, Any]] = [
        {},
        {"prompt": ""},
        {"prompt": []},
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"prompt": [1, -2]},
        {"prompt": [True]},
        {"prompt": "x", "best_of": 2},
    ]
    for fields in refused_ones:
        with pytest.raises(BadRequest):
            complete(**fields)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 200_000])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(raw, Endpoint.CHAT)
    assert caught.value.code == "invalid_json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "max_tokens",
    "stream",
    "stream_options",
    "messages",
    "n",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "response_format",
    "gainshare",
]


@settings(deadline=None)  # the first call on a busy machine
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=10), JSON, max_size=5))
def test_whatever_comes_is_a_request_or_a_named_refusal(fields: dict[str, Any]) -> None:
    try:
        request = chat(**{str(name): value for name, value in fields.items() if name not in {"self"}})
    except BadRequest as error:
        assert error.message and error.status == 400
    else:
        assert request.max_tokens is None or request.max_tokens >= 1
        assert request.prompt["messages"]
