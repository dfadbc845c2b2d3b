"""Parses and checks requests for generation: pure functions from a JSON body to a `GenerationRequest`.

Follows OpenAI's reference for chat completions and completions. Unknown parameters are refused by name.
Parameters that this stack lacks are refused as unsupported, unless they have their neutral value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gainshare.capacity.routing.analysis import Urgency
from gainshare.gateway.answers import EXTENSION, checked_answers, n_answers
from gainshare.gateway.errors import BadRequest
from gainshare.gateway.sampling import SAMPLING, checked_sampling
from gainshare.gateway.trees import model_and_tree

MAX_BODY_BYTES = 4 << 20
MAX_MESSAGES = 1024
MAX_TOKENS = 2**31 - 1  # longer than any context
COMPLETION_TOKENS = 16  # OpenAI's default length of a completion; a chat may fill the context

# Accepted and ignored: they do not change the answer.
IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls",
}  # fmt: skip
# Supported by OpenAI but not here: refused unless the value is the neutral one.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
    "moderation": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
SHARED = {"model", "stream", "stream_options", "max_tokens", "n", "logprobs", "response_format", EXTENSION}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Endpoint(StrEnum):
    """Endpoint of a generation; the value is the path below /v1/."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A checked request. `prompt` has `messages` or `prompt`, `sampling` the other fields for the node.

    `max_tokens` is the user's limit for each of `n_answers`. Without it, `default_tokens` applies, limited by
    the context. `tree` are the first digits of the tree that must answer; empty: the one that serves now.
    """

    endpoint: Endpoint
    model: str
    is_stream: bool
    wants_usage: bool
    max_tokens: int | None
    default_tokens: int | None
    prompt: Mapping[str, Any]
    sampling: Mapping[str, Any]
    n_answers: int = 1
    tree: str = ""

    @property
    def urgency(self) -> Urgency:
        return Urgency.of(self.sampling.get(EXTENSION))

    def node_body(self, max_tokens: int) -> dict[str, Any]:
        """The body for the node, always streamed and with counters on every chunk."""
        return {
            "model": self.model,
            **self.prompt,
            **self.sampling,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }


def read_request(raw: bytes, endpoint: Endpoint) -> GenerationRequest:
    """Parse and check a request body; raises `BadRequest` naming the parameter at fault."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    _refuse_unknown(body, endpoint)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.", param="model", code="missing_parameter")
    if not model.isprintable():  # the database could not look it up either
        raise BadRequest("'model' has characters that no model's name has.", param="model")
    is_stream = _flag(body, "stream")
    model, tree = model_and_tree(model)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        is_stream=is_stream,
        wants_usage=_wants_usage(body, is_stream=is_stream),
        max_tokens=_max_tokens(body),
        default_tokens=COMPLETION_TOKENS if endpoint is Endpoint.COMPLETIONS else None,
        prompt=_messages(body) if endpoint is Endpoint.CHAT else _prompt(body),
        sampling={**checked_sampling(body), **checked_answers(body, is_chat=endpoint is Endpoint.CHAT)},
        n_answers=n_answers(body),
        tree=tree,
    )


def _refuse_unknown(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    own = {"messages", "max_completion_tokens", "top_logprobs"} if endpoint is Endpoint.CHAT else {"prompt"}
    for name, value in body.items():
        if name in SHARED | SAMPLING | IGNORED | own:
            continue
        if name not in UNSUPPORTED:
            raise BadRequest(
                f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter"
            )
        if not any(value == neutral and type(value) is type(neutral) for neutral in UNSUPPORTED[name]):
            raise BadRequest(
                f"'{name}' is not supported by the models served here; leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false.", param=name, code="invalid_type")
    return value


def _wants_usage(body: Mapping[str, Any], *, is_stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not is_stream:
        raise BadRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    if not isinstance(options, dict):
        raise BadRequest("'stream_options' must be an object.", param="stream_options", code="invalid_type")
    for name in options:
        if name not in {"include_usage", "include_obfuscation"}:
            param = f"stream_options.{name[:100]}"
            raise BadRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    return _flag(options, "include_usage")


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    given = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if not given:
        return None
    if len(given) == 2:
        raise BadRequest("Set one of 'max_tokens' and 'max_completion_tokens'.", param="max_tokens")
    name = given[0]
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"'{name}' must be a whole number.", param=name, code="invalid_type")
    if value < 1:
        raise BadRequest(
            f"'{name}' is {value}; it must be at least 1.", param=name, code="integer_below_min_value"
        )
    if value > MAX_TOKENS:
        raise BadRequest(
            f"'{name}' must be at most {MAX_TOKENS}.", param=name, code="integer_above_max_value"
        )
    return value


def _messages(body: Mapping[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty list.", param="messages", code="missing_parameter")
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"'messages' has more than {MAX_MESSAGES} entries.", param="messages")
    return {"messages": [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]}


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadRequest(f"'{where}' must be an object.", param=where, code="invalid_type")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRequest(f"'{where}.role' must be one of {', '.join(ROLES)}.", param=f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise BadRequest(
                f"'{where}.{name}' is not supported by the models served here.",
                param=f"{where}.{name}",
                code="unsupported_parameter",
            )
    return {"role": ROLES[role], "content": _content(message.get("content"), f"{where}.content")}


def _content(content: Any, where: str) -> str:
    """Text, or OpenAI's list of content parts as long as all of them are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = []
        for i, part in enumerate(content):
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise BadRequest(
                    f"'{where}[{i}]' must be a text part; others are not supported.", param=where
                )
            parts.append(part["text"])
        return "".join(parts)
    raise BadRequest(f"'{where}' must be text or a list of text parts.", param=where, code="invalid_type")


def _prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    """One text, or the token ids of one text."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    is_text = isinstance(prompt, str)
    is_tokens = isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt)
    if not is_text and not is_tokens:
        raise BadRequest(
            "'prompt' must be one text or one list of token ids; lists of prompts are not supported.",
            param="prompt",
            code="invalid_type" if "prompt" in body else "missing_parameter",
        )
    if not prompt:
        raise BadRequest("'prompt' must not be empty.", param="prompt")
    return {"prompt": prompt}
