"""JSON shapes of the OpenAI-compatible API for the OpenAPI document, with the limits that the code checks.

`requests`, `sampling` and `answers` check requests; a test compares their limits with these.
"""

from typing import Any

from gainshare.gateway.answers import FORMATS, MAX_ANSWERS, MAX_DEADLINE_MS, MAX_TOP_LOGPROBS, PRIORITIES
from gainshare.gateway.requests import COMPLETION_TOKENS, IGNORED, MAX_MESSAGES, MAX_TOKENS, ROLES
from gainshare.gateway.sampling import (
    BIAS_RANGE,
    MAX_BIASES,
    MAX_STOP_CHARACTERS,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TOKEN_ID,
    RANGES,
    SEED_RANGE,
    TOP_K_RANGE,
)

Shape = dict[str, Any]


def ref(name: str) -> Shape:
    """A reference to a shape of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str = "", **more: Any) -> Shape:
    """A string."""
    return {"type": "string"} | ({"description": description} if description else {}) | more


def whole(lowest: int | None = None, highest: int | None = None, description: str = "") -> Shape:
    """A whole number within bounds."""
    bounds = {"minimum": lowest, "maximum": highest}
    given = {key: value for key, value in bounds.items() if value is not None}
    return {"type": "integer", **given} | ({"description": description} if description else {})


def thing(properties: Shape, *, required: list[str] | None = None, description: str = "") -> Shape:
    """An object. All fields are required, unless ``required`` lists them."""
    names = list(properties) if required is None else required
    shape: Shape = {"type": "object", "properties": properties}
    return (
        shape | ({"required": names} if names else {}) | ({"description": description} if description else {})
    )


def listed(items: Shape, **more: Any) -> Shape:
    """A list."""
    return {"type": "array", "items": items, **more}


def _nullable(fields: Shape) -> Shape:
    """Fields of a request, in which null means the same as a missing field."""
    return {name: _or_null(shape) for name, shape in fields.items()}


def _or_null(shape: Shape) -> Shape:
    if "oneOf" in shape:
        first, *others = shape["oneOf"]
        return {**shape, "oneOf": [_or_null(first), *others]}
    return {**shape, "nullable": True} if "type" in shape else shape  # without a type any value is allowed


SAMPLING: Shape = {
    **{name: {"type": "number", "minimum": low, "maximum": high} for name, (low, high) in RANGES.items()},
    "top_k": whole(*TOP_K_RANGE, "0 and -1 keep all tokens."),
    "seed": whole(*SEED_RANGE),
    "stop": {
        "oneOf": [text(), listed(text(maxLength=MAX_STOP_CHARACTERS), maxItems=MAX_STOPS)],
        "description": "The answer ends before the first of these.",
    },
    "stop_token_ids": listed(whole(0, MAX_TOKEN_ID), maxItems=MAX_STOP_TOKENS),
    "min_tokens": whole(0, MAX_TOKEN_ID),
    "ignore_eos": {"type": "boolean"},
    "logit_bias": {
        "type": "object",
        "maxProperties": MAX_BIASES,
        "additionalProperties": {"type": "number", "minimum": BIAS_RANGE[0], "maximum": BIAS_RANGE[1]},
        "description": "Bias that is added to the logit, by token id.",
    },
}
SHARED: Shape = {
    **SAMPLING,
    "n": whole(1, MAX_ANSWERS, "Number of answers; the hold covers all of them."),
    "stream": {"type": "boolean", "description": "Answer in server-sent events, as tokens are generated."},
    "stream_options": thing(
        {"include_usage": {"type": "boolean", "description": "Adds a last chunk with the usage."}},
        required=[],
        description="Only with `stream`.",
    ),
    "response_format": {
        "type": "object",
        "properties": {"type": text(enum=list(FORMATS)), "json_schema": {"type": "object"}},
        "required": ["type"],
        "description": "Constrains the answer to JSON, or to a JSON schema.",
    },
    "gainshare": thing(
        {
            "priority": whole(*PRIORITIES, "Requests below 0 wait behind others."),
            "deadline_ms": whole(
                1, MAX_DEADLINE_MS, "A request that cannot begin by then is refused at no charge."
            ),
        },
        required=[],
        description="Fields of this platform that OpenAI does not have.",
    ),
    **{name: {"description": "Accepted and ignored."} for name in sorted(IGNORED)},
}
LIMIT_TEXT = "Lowered to what the wallet covers; the answer's header X-Gainshare-Max-Tokens has the limit that applied."
MODEL = text("The id of a model that GET /v1/models lists.", minLength=1)
PART = thing({"type": text(enum=["text"]), "text": text()})
MESSAGE = thing(
    {"role": text(enum=list(ROLES)), "content": {"oneOf": [text(), listed(PART, minItems=1)]}},
    description="One turn of the conversation.",
)
USAGE = thing(
    {
        "prompt_tokens": whole(0),
        "completion_tokens": whole(0),
        "total_tokens": whole(0),
        "prompt_tokens_details": thing({"cached_tokens": whole(0)}),
    },
    description="Metered usage of all answers together.",
)
REASON = text("stop, length, deadline; null until the answer ends.", nullable=True)
LOGPROBS = {
    "type": "object",
    "nullable": True,
    "description": "In OpenAI's shape, if requested.",
}
ENVELOPE: Shape = {"id": text(), "created": whole(description="Seconds since 1970."), "model": text()}


def _answer(kind: str, choice: Shape, *, usage: Shape | None = None) -> Shape:
    fields = {**ENVELOPE, "object": text(enum=[kind])}
    fields["choices"] = listed(thing({"index": whole(0), **choice}, required=["index", *choice]))
    if usage is not None:
        return thing({**fields, "usage": usage})
    last = {**USAGE, "nullable": True, "description": "In the last chunk, if requested."}
    return thing({**fields, "usage": last}, required=list(fields))


def _request(own: Shape, required: list[str]) -> Shape:
    shape = thing({"model": MODEL, **own, **_nullable(SHARED)}, required=["model", *required])
    return {**shape, "additionalProperties": False}


SHAPES: Shape = {
    "ModelError": thing(
        {
            "error": thing(
                {
                    "message": text("For people; says what happened and what to do."),
                    "type": text(),
                    "param": text("The field at fault.", nullable=True),
                    "code": text("Stable, for programs."),
                }
            )
        },
        description="OpenAI's error object.",
    ),
    "ModelUsage": USAGE,
    "ServedModel": thing(
        {
            "id": text(),
            "object": text(enum=["model"]),
            "created": whole(),
            "owned_by": text(),
            "max_context": {**whole(1, description="Tokens of prompt and answer together."), "nullable": True},
            "microcredits_per_million_tokens": thing(
                {"cached_input": whole(0), "fresh_input": whole(0), "output": whole(0)}
            ),
            "price_terms": thing(
                {
                    "long_above": whole(0),
                    "long_cached_input": whole(0),
                    "long_fresh_input": whole(0),
                    "long_output": whole(0),
                    "off_peak_windows": listed(listed(whole(0))),
                    "memory_tiers": listed(listed(whole(0))),
                    "memory_share_ppm": whole(0),
                },
                description="What else makes a bill, as in GET /api/v1/prices/.",
            ),
        },
        description="A model that is served and priced.",
    ),
    "ServedModels": thing({"object": text(enum=["list"]), "data": listed(ref("ServedModel"))}),
    "ChatMessage": MESSAGE,
    "ChatRequest": _request(
        {
            "messages": listed(ref("ChatMessage"), minItems=1, maxItems=MAX_MESSAGES),
            **_nullable(
                {
                    "max_completion_tokens": whole(1, MAX_TOKENS, f"By default as many as the context allows. {LIMIT_TEXT}"),
                    "max_tokens": whole(1, MAX_TOKENS, "The older name of max_completion_tokens; send one of the two."),
                    "logprobs": {"type": "boolean"},
                    "top_logprobs": whole(0, MAX_TOP_LOGPROBS, "Needs `logprobs`."),
                }
            ),
        },
        ["messages"],
    ),
    "ChatAnswer": _answer(
        "chat.completion",
        {
            "message": thing({"role": text(enum=["assistant"]), "content": text(), "refusal": text(nullable=True)}),
            "logprobs": LOGPROBS,
            "finish_reason": REASON,
        },
        usage=ref("ModelUsage"),
    ),
    "ChatChunk": _answer(
        "chat.completion.chunk",
        {
            "delta": thing({"role": text(), "content": text(nullable=True)}, required=[]),
            "finish_reason": REASON,
        },
    ),
    "CompletionRequest": _request(
        {
            "prompt": {
                "oneOf": [text(minLength=1), listed(whole(0), minItems=1), listed(text(minLength=1), minItems=1, maxItems=1)],
                "description": "One text, or the token ids of one text.",
            },
            **_nullable(
                {
                    "max_tokens": whole(1, MAX_TOKENS, f"{COMPLETION_TOKENS} by default. {LIMIT_TEXT}"),
                    "logprobs": whole(0, MAX_TOP_LOGPROBS),
                }
            ),
        },
        ["prompt"],
    ),
    "CompletionAnswer": _answer(
        "text_completion", {"text": text(), "logprobs": LOGPROBS, "finish_reason": REASON}, usage=ref("ModelUsage")
    ),
    "CompletionChunk": _answer("text_completion", {"text": text(), "finish_reason": REASON}),
}  # fmt: skip
