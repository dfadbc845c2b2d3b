"""Adds the OpenAI-compatible API to the OpenAPI document: operations, streams, errors and headers.

Its views are not REST framework views, so drf-spectacular cannot read them. Named by string in the settings.
"""

from collections.abc import Iterator
from typing import Any

from gainshare.gateway.errors import GatewayError
from gainshare.gateway.schema_shapes import SHAPES, ref, text, whole

TAG = "models"
ALWAYS = (401, 403, 500, 503)
GENERATING = (400, 404, 413, 429, 502, 504)
STREAM_TEXT = (
    "With `stream`: one `data:` line for each chunk, then `data: [DONE]`. A failure in the middle is one "
    "event with an `error` object, without `[DONE]`. Streams are never compressed or buffered."
)
BILL = {
    "X-Gainshare-Request-Id": {
        "description": "The request's id; GET /api/v1/usage/{request_id}/ is its bill.",
        "schema": text(format="uuid"),
    },
    "X-Request-Id": {"description": "The same id, under OpenAI's name.", "schema": text(format="uuid")},
}
ANSWER_HEADERS = {
    **BILL,
    "X-Gainshare-Max-Tokens": {
        "description": "The token limit that applied to each answer.",
        "schema": whole(1),
    },
}
ERROR_HEADERS = {
    "x-should-retry": {
        "description": "Whether the same request can succeed a moment later; OpenAI's clients read it.",
        "schema": text(enum=["true", "false"]),
    }
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": whole(0)}}


def add_model_access(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook that adds the operations and shapes of /v1/ to the document."""
    clash = result["components"]["schemas"].keys() & SHAPES.keys()
    assert not clash, f"two shapes of one name: {clash}"
    result["components"]["schemas"] |= SHAPES
    result["paths"] |= _paths()
    return result


def _paths() -> dict[str, Any]:
    model = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": text(),
        "description": "A model's id.",
    }
    return {
        "/v1/models": {
            "get": _operation(
                "models_list", "The models that are served and priced", _json("ServedModels"), ALWAYS
            )
        },
        "/v1/models/{model}": {
            "get": _operation(
                "models_retrieve", "One model with its prices", _json("ServedModel"), (*ALWAYS, 404)
            )
            | {"parameters": [model]}
        },
        "/v1/chat/completions": {"post": _generation("chat", "Answer a conversation", "Chat")},
        "/v1/completions": {"post": _generation("completions", "Continue a text", "Completion")},
    }


def _generation(name: str, summary: str, shape: str) -> dict[str, Any]:
    answer = _json(f"{shape}Answer")
    answer["content"]["text/event-stream"] = {"schema": ref(f"{shape}Chunk")}
    answer |= {"description": STREAM_TEXT, "headers": ANSWER_HEADERS}
    body = {"required": True, "content": {"application/json": {"schema": ref(f"{shape}Request")}}}
    description = (
        "Credits for the upper bound are held before the first token. Unused credits return at the end, also when "
        "the client disconnects. OpenAI parameters that the models here do not support are refused by name."
    )
    return _operation(f"{name}_create", summary, answer, (*ALWAYS, *GENERATING)) | {
        "description": description,
        "requestBody": body,
    }


def _operation(name: str, summary: str, answer: dict[str, Any], refusals: tuple[int, ...]) -> dict[str, Any]:
    errors = {str(status): _error(status) for status in sorted(refusals)}
    return {
        "operationId": f"v1_{name}",
        "summary": summary,
        "tags": [TAG],
        "security": [{"apiKey": []}],
        "responses": {"200": answer, **errors},
    }


def _json(shape: str) -> dict[str, Any]:
    return {"description": "", "content": {"application/json": {"schema": ref(shape)}}}


def _error(status: int) -> dict[str, Any]:
    """Description of an error status, read from the error classes."""
    reasons = [kind for kind in _kinds(GatewayError) if kind.status == status]
    said = [f"`{kind.code}`: {(kind.__doc__ or '').split(chr(10))[0]}" for kind in reasons]
    headers = dict(ERROR_HEADERS)
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "Bearer.", "schema": text()}
    if any(kind.should_retry for kind in reasons):
        headers |= RETRY_AFTER
    content = {"application/json": {"schema": ref("ModelError")}}
    return {"description": "\n".join(said), "content": content, "headers": headers}


def _kinds(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)
