"""What the node reads out of request bodies, and what it refuses by name. No model, no network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.serving.api.errors import ApiError
from model.serving.api.requests import Options, read_messages, read_options
from model.serving.api.response_format import ANY_OBJECT


def options(*, is_chat: bool = True, **fields: Any) -> Options:
    return read_options({"model": "m", **fields}, is_chat=is_chat)


def refused(*, is_chat: bool = True, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        options(is_chat=is_chat, **fields)
    assert caught.value.status == 400 and caught.value.message
    return caught.value


def test_nothing_asked_for_is_the_default() -> None:
    read = options()
    assert (read.n_answers, read.schema, read.priority, read.deadline_ms) == (1, None, 0, None)
    assert read.settings.logprobs is None and read.settings.logit_bias == {}
    assert (read.settings.temperature, read.settings.min_p, read.settings.repetition_penalty) == (1, 0, 1)


def test_settings_reach_the_sampler_as_they_came() -> None:
    settings = options(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=3,
        presence_penalty=-1,
        frequency_penalty=2,
        repetition_penalty=1.5,
        logit_bias={"5": -100, "17": 3.5},
    ).settings
    assert (settings.temperature, settings.top_p, settings.top_k, settings.min_p) == (0.5, 0.9, 7, 0.1)
    assert (settings.presence_penalty, settings.frequency_penalty) == (-1, 2)
    assert (settings.repetition_penalty, settings.seed) == (1.5, 3)
    assert settings.logit_bias == {5: -100, 17: 3.5}


@pytest.mark.parametrize(
    ("seed", "ours"), [(None, None), (0, 0), (2**63 - 1, 2**63 - 1), (-1, 2**63 - 1), (-(2**63), 0)]
)
def test_seeds_have_a_sign_as_openais(seed: int | None, ours: int | None) -> None:
    assert options(seed=seed).settings.seed == ours


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**400, 0.5, "1", True])
def test_seeds_of_more_than_64_bits_are_refused(seed: object) -> None:
    with pytest.raises(ApiError) as caught:
        options(seed=seed)
    assert caught.value.param == "seed"


@pytest.mark.parametrize("top_k", [0, -1, None])
def test_no_top_k_keeps_all_tokens(top_k: int | None) -> None:
    assert options(top_k=top_k).settings.top_k == 0


@pytest.mark.parametrize(
    ("is_chat", "fields", "expected"),
    [
        (True, {"logprobs": True}, 0),
        (True, {"logprobs": True, "top_logprobs": 4}, 4),
        (True, {"logprobs": False}, None),
        (True, {"logprobs": False, "top_logprobs": 0}, None),
        (False, {"logprobs": 0}, 0),
        (False, {"logprobs": 3}, 3),
        (False, {"logprobs": False}, None),
        (False, {"logprobs": None}, None),
    ],
)
def test_each_endpoint_asks_for_log_probabilities_in_its_own_way(
    is_chat: bool, fields: dict[str, Any], expected: int | None
) -> None:
    assert options(is_chat=is_chat, **fields).settings.logprobs == expected


def test_ends_are_named_as_vllms_users_do() -> None:
    read = options(stop_token_ids=[7, 8, 7], min_tokens=3)
    assert (read.stop_token_ids, read.min_tokens) == ({7, 8}, 3)


def test_formats_become_schemas() -> None:
    assert options(response_format={"type": "text"}).schema is None
    assert options(response_format={"type": "json_object"}).schema == ANY_OBJECT
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert options(response_format=given).schema == schema


def test_the_extension_carries_priority_and_deadline() -> None:
    read = options(gainshare={"priority": -2, "deadline_ms": 1500, "unknown": 1})
    assert (read.priority, read.deadline_ms) == (-2, 1500)
    assert options(n=3, best_of=3).n_answers == 3


@pytest.mark.parametrize(
    ("is_chat", "fields", "param", "code"),
    [
        (True, {"n": 0}, "n", "invalid_value"),
        (True, {"n": 17}, "n", "invalid_value"),
        (True, {"n": True}, "n", "invalid_value"),
        (False, {"best_of": 2}, "best_of", "unsupported_parameter"),
        (True, {"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        (True, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        (True, {"logprobs": 1}, "logprobs", "invalid_value"),
        (False, {"logprobs": True}, "logprobs", "invalid_value"),
        (False, {"logprobs": -1}, "logprobs", "invalid_value"),
        (True, {"presence_penalty": 2.1}, "presence_penalty", "invalid_value"),
        (True, {"frequency_penalty": "much"}, "frequency_penalty", "invalid_value"),
        (True, {"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        (True, {"min_p": 1.5}, "min_p", "invalid_value"),
        (True, {"temperature": float("nan")}, "temperature", "invalid_value"),
        (True, {"temperature": 10**400}, "temperature", "invalid_value"),
        (True, {"logit_bias": []}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {"²": 1}}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {"1": None}}, "logit_bias", "invalid_value"),
        (True, {"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        (True, {"response_format": "json"}, "response_format", "invalid_value"),
        (True, {"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (True, {"response_format": {"kind": "text"}}, "response_format.type", "invalid_value"),
        (True, {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (True, {"gainshare": 3}, "gainshare", "invalid_value"),
        (True, {"gainshare": {"priority": 101}}, "priority", "invalid_value"),
        (True, {"gainshare": {"deadline_ms": 0}}, "deadline_ms", "invalid_value"),
        (
            True,
            {"response_format": {"type": "json_object"}, "ignore_eos": True},
            "ignore_eos",
            "invalid_value",
        ),
        (True, {"tools": [{}]}, "tools", "unsupported_parameter"),
        (False, {"echo": True}, "echo", "unsupported_parameter"),
        (True, {"top_k": -2}, "top_k", "invalid_value"),
        (True, {"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        (True, {"min_tokens": -1}, "min_tokens", "invalid_value"),
        (True, {"min_tokens": 3, "response_format": {"type": "json_object"}}, "min_tokens", "invalid_value"),
        (True, {"stop_token_ids": 7}, "stop_token_ids", "invalid_value"),
        (True, {"stop_token_ids": [True]}, "stop_token_ids", "invalid_value"),
        (True, {"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        (True, {"stop_token_ids": list(range(1025))}, "stop_token_ids", "invalid_value"),
        (True, {"guided_json": {}}, "guided_json", "unsupported_parameter"),
        (True, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs", "unsupported_parameter"),
        (True, {"skip_special_tokens": False}, "skip_special_tokens", "unsupported_parameter"),
        (True, {"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        (True, {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs", "unsupported_parameter"),
        (False, {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "unsupported_parameter"),
        (False, {"use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
        (False, {"bad_words": ["x"]}, "bad_words", "unsupported_parameter"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    is_chat: bool, fields: dict[str, Any], param: str, code: str
) -> None:
    error = refused(is_chat=is_chat, **fields)
    assert (error.param, error.code) == (param, code)


def test_settings_at_the_value_that_changes_nothing_are_taken() -> None:
    vllm = {"min_tokens": 0, "stop_token_ids": [], "length_penalty": 1.0, "skip_special_tokens": True}
    assert options(**vllm, tool_choice="auto", guided_json=None, bad_words=[], priority=3) == options()


def test_a_message_that_calls_tools_is_refused_by_name() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    with pytest.raises(ApiError) as caught:
        read_messages({"messages": [{"role": "user", "content": "x"}, called]})
    assert (caught.value.param, caught.value.code) == ("messages[1].tool_calls", "unsupported_parameter")
    assert read_messages({"messages": [{**called, "tool_calls": []}]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "n", "best_of", "logprobs", "top_logprobs", "logit_bias", "min_p", "presence_penalty", "repetition_penalty",
    "response_format", "gainshare", "seed", "stop", "max_tokens", "stream", "stream_options", "temperature", "tools",
    "stop_token_ids", "min_tokens",
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4), st.booleans())
def test_whatever_comes_is_read_or_refused_by_name(fields: dict[str, Any], is_chat: bool) -> None:
    try:
        read = options(is_chat=is_chat, **fields)
    except ApiError as error:
        assert error.status == 400 and error.message and error.param
    else:
        assert 1 <= read.n_answers <= 16
