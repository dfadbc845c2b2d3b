"""Reads the bodies of OpenAI-shaped requests and refuses, by name, what the node cannot honour.

Settings that would change the answer but are not supported are refused (`unsupported.py`) rather than ignored; fields
that change nothing (`user`, `metadata`, unknown ones) are ignored.

One field is ours: `gainshare`, an object with `priority` (higher goes first, 0 where it is missing) and
`deadline_ms` (an answer that is not complete that long after the request is of no use).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.sampling import SamplingSettings
from model.serving.api.chat import Message
from model.serving.api.errors import bad_value
from model.serving.api.fields import Body, flag, is_whole, section, whole
from model.serving.api.response_format import read_schema
from model.serving.api.sampling_fields import read_answers, read_logprobs, read_settings
from model.serving.api.unsupported import refuse_unsupported, refuse_unsupported_message

MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 1024
MAX_PRIORITY = 100
MAX_DEADLINE_MS = 24 * 3600 * 1000
COMPLETION_DEFAULT_TOKENS = 16  # OpenAI's default for /v1/completions
EXTENSION = "gainshare"

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Options:
    """Options of chats and completions; `max_tokens` None means the endpoint's default, for each answer."""

    model: str
    max_tokens: int | None
    settings: SamplingSettings
    stop: tuple[str, ...]
    ignore_stop_tokens: bool
    is_streamed: bool
    include_usage: bool
    continuous_usage: bool
    n_answers: int = 1
    schema: Mapping[str, Any] | None = None  # of the JSON that each answer must be
    priority: int = 0
    deadline_ms: int | None = None
    stop_token_ids: frozenset[int] = frozenset()  # in addition to the model's own
    min_tokens: int = 0  # of each answer, before anything but `max_tokens` may end it
    logprobs: int | None = None  # alternatives of each token, with its log-probability; None: neither


Prompt = str | tuple[int, ...] | tuple[Message, ...]  # text, token ids, or a chat


def read_object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise bad_value(None, "the request body must be a JSON object", "invalid_json")
    return body


def read_model(body: Body) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_value("model", "model must name the model to use", "missing_model")
    return model


def read_messages(body: Body) -> tuple[Message, ...]:
    """Chat messages; content may be a string or a list of text parts."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_value("messages", "messages must be a non-empty list")
    return tuple(_read_message(i, message) for i, message in enumerate(messages))


def _read_message(i: int, message: Any) -> Message:
    where = f"messages[{i}]"
    if not isinstance(message, dict):
        raise bad_value(where, f"{where} must be an object with role and content")
    refuse_unsupported_message(message, where)
    given = message.get("role")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise bad_value(f"{where}.role", f"{where}.role must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        if not all(
            isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
            for p in content
        ):
            raise bad_value(
                f"{where}.content",
                f"{where}.content may have text parts only: this model reads no images or audio",
            )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise bad_value(f"{where}.content", f"{where}.content must be text")
    return Message(role, content)


def read_prompt(body: Body) -> str | tuple[int, ...]:
    """The prompt of a completion: text or token ids; one prompt per request."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(is_whole(token) for token in prompt):
        return tuple(prompt)
    raise bad_value("prompt", "prompt must be one non-empty text or one non-empty list of token ids")


def read_options(body: Body, *, is_chat: bool) -> Options:
    """Read everything but the prompt. Raises ApiError (400) that names the field."""
    refuse_unsupported(body)
    streaming, extension = section(body, "stream_options"), section(body, EXTENSION)
    schema = read_schema(body)
    min_tokens = whole(body, "min_tokens", lowest=0) or 0
    for name, is_set in (("ignore_eos", flag(body, "ignore_eos")), ("min_tokens", min_tokens > 0)):
        if schema is not None and is_set:
            raise bad_value(
                name, f"{name} cannot be used with response_format: such an answer ends where its JSON ends"
            )
    max_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return Options(
        model=read_model(body),
        max_tokens=whole(body, max_name, lowest=1),
        settings=read_settings(body, is_chat=is_chat),
        stop=_stop(body),
        ignore_stop_tokens=flag(body, "ignore_eos"),
        is_streamed=flag(body, "stream"),
        include_usage=flag(streaming, "include_usage"),
        continuous_usage=flag(streaming, "continuous_usage_stats"),
        n_answers=read_answers(body),
        schema=schema,
        priority=whole(extension, "priority", lowest=-MAX_PRIORITY, highest=MAX_PRIORITY) or 0,
        deadline_ms=whole(extension, "deadline_ms", lowest=1, highest=MAX_DEADLINE_MS),
        stop_token_ids=_stop_token_ids(body),
        min_tokens=min_tokens,
        logprobs=read_logprobs(body, is_chat=is_chat),
    )


def _stop(body: Body) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or len(texts) > MAX_STOP_STRINGS:
        raise bad_value("stop", f"stop must be a text or a list of at most {MAX_STOP_STRINGS}")
    if not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARACTERS for text in texts):
        raise bad_value("stop", f"each stop text must have 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(texts)


def _stop_token_ids(body: Body) -> frozenset[int]:
    ids = body.get("stop_token_ids")
    if ids is None:
        return frozenset()
    if not isinstance(ids, list) or not all(is_whole(token) and token >= 0 for token in ids):
        raise bad_value("stop_token_ids", "stop_token_ids must be a list of token ids")
    if len(ids) > MAX_STOP_TOKENS:
        raise bad_value("stop_token_ids", f"stop_token_ids may name at most {MAX_STOP_TOKENS:,} tokens")
    return frozenset(ids)
