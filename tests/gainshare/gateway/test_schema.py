"""The OpenAPI document of /v1/ matches the code: the same fields, limits and errors."""

import json
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator

from gainshare.gateway.answers import EXTENSION
from gainshare.gateway.errors import BadRequest
from gainshare.gateway.requests import IGNORED, SHARED, UNSUPPORTED, Endpoint, read_request
from gainshare.gateway.sampling import SAMPLING
from tests.rest_contract import document

MINIMAL: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "Hi"},
}
NAMES = {Endpoint.CHAT: "ChatRequest", Endpoint.COMPLETIONS: "CompletionRequest"}
OWN = {
    Endpoint.CHAT: {"messages", "max_completion_tokens", "top_logprobs"},
    Endpoint.COMPLETIONS: {"prompt"},
}
# These need another field, or are refused at the bound itself (see `checked_sampling`).
BESIDE: dict[str, dict[str, Any]] = {"top_logprobs": {"logprobs": True}}
OPEN_ENDS = {("top_p", "minimum"), ("repetition_penalty", "minimum")}


def shape(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"][NAMES[endpoint]]
    return found


def accepts(endpoint: Endpoint, **fields: Any) -> bool:
    try:
        read_request(json.dumps(MINIMAL[endpoint] | fields).encode(), endpoint)
    except BadRequest:
        return False
    return True


def says(endpoint: Endpoint, **fields: Any) -> bool:
    """Whether the document allows this request."""
    schema = {**shape(endpoint), "components": document()["components"]}
    return bool(OAS30Validator(schema).is_valid(MINIMAL[endpoint] | fields))


@pytest.mark.parametrize("endpoint", Endpoint)
def test_the_fields_are_those_that_are_read(endpoint: Endpoint) -> None:
    assert set(shape(endpoint)["properties"]) == SHARED | SAMPLING | IGNORED | OWN[endpoint]
    assert not set(shape(endpoint)["properties"]) & set(UNSUPPORTED)
    assert accepts(endpoint) and says(endpoint)
    assert not accepts(endpoint, fancy=1) and not says(endpoint, fancy=1)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_numbers_have_the_bounds_that_are_checked(endpoint: Endpoint) -> None:
    fields = dict(shape(endpoint)["properties"])
    fields |= {f"{EXTENSION}.{name}": part for name, part in fields[EXTENSION]["properties"].items()}
    bounded = {name: part for name, part in fields.items() if part.keys() & {"minimum", "maximum"}}
    assert len(bounded) >= 13
    for name, part in bounded.items():
        for bound, step in (("minimum", -1), ("maximum", 1)):
            inside, outside = _field(name, part[bound]), _field(name, part[bound] + step)
            assert accepts(endpoint, **inside) == ((name, bound) not in OPEN_ENDS), (name, bound)
            assert says(endpoint, **inside)
            assert not accepts(endpoint, **outside) and not says(endpoint, **outside), (name, bound)


def _field(name: str, value: Any) -> dict[str, Any]:
    outer, _, inner = name.partition(".")
    return BESIDE.get(name, {}) | {outer: {inner: value} if inner else value}


@pytest.mark.parametrize("endpoint", Endpoint)
def test_null_is_the_same_as_leaving_a_field_out(endpoint: Endpoint) -> None:
    for name in shape(endpoint)["properties"].keys() - {"model", "messages", "prompt"}:
        assert accepts(endpoint, **{name: None}) and says(endpoint, **{name: None}), name


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a"] * 5}, {"stop": 1}, {"logit_bias": {"5": 101}}, {"stream": "yes"}, {"n": True},
        {"response_format": {"type": "xml"}}, {"model": ""}, {"temperature": "0.5"}, {"stop_token_ids": [-1]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_the_document_does_not_allow_is_refused(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    assert not says(endpoint, **fields)
    assert not accepts(endpoint, **fields)


@pytest.mark.parametrize("content", ["Hi", [{"type": "text", "text": "Hi"}], [], 5, None])
def test_messages_are_as_documented(content: Any) -> None:
    messages = [{"role": "user", "content": content}]
    assert accepts(Endpoint.CHAT, messages=messages) == says(Endpoint.CHAT, messages=messages)


@pytest.mark.parametrize("prompt", ["Hi", [1, 2], ["Hi"], [], "", [-1], ["a", "b"], 5])
def test_prompts_are_as_documented(prompt: Any) -> None:
    assert accepts(Endpoint.COMPLETIONS, prompt=prompt) == says(Endpoint.COMPLETIONS, prompt=prompt)


def test_streams_errors_and_headers_are_named() -> None:
    operation = document()["paths"]["/v1/chat/completions"]["post"]
    answer = operation["responses"]["200"]
    assert set(answer["content"]) == {"application/json", "text/event-stream"}
    assert "[DONE]" in answer["description"]
    assert {"X-Gainshare-Request-Id", "X-Gainshare-Max-Tokens"} <= set(answer["headers"])
    codes = {status: part["description"] for status, part in operation["responses"].items()}
    for status, code in (
        ("400", "context_length_exceeded"), ("401", "invalid_api_key"), ("403", "insufficient_scope"),
        ("404", "model_not_priced"), ("413", "request_too_large"), ("429", "insufficient_quota"),
        ("502", "node_failed"), ("503", "service_unavailable"), ("504", "deadline_exceeded"),
    ):  # fmt: skip
        assert f"`{code}`" in codes[status]
        assert "x-should-retry" in operation["responses"][status]["headers"]
