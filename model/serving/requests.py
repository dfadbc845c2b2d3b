"""Reads the bodies of OpenAI-shaped requests and refuses, by name, what the node cannot honour.

Settings that would change the answer but are not supported are refused rather than ignored; fields that change
nothing (`user`, `metadata`, unknown ones) are ignored. Knows nothing of HTTP or of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.sampling import SamplingError, SamplingSettings
from model.serving.chat import Message
from model.serving.errors import bad_value

MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 256
COMPLETION_DEFAULT_TOKENS = 16  # OpenAI's default for /v1/completions

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Field -> the values that mean "not used".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
}


@dataclass(frozen=True)
class Options:
    """What both kinds of request may ask for; `max_tokens` None means the endpoint's default."""

    model: str
    max_tokens: int | None
    settings: SamplingSettings
    stop: tuple[str, ...]
    ignore_stop_tokens: bool
    is_streamed: bool
    include_usage: bool
    continuous_usage: bool


Prompt = str | tuple[int, ...] | tuple[Message, ...]  # text, token ids, or a chat


def read_object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise bad_value("", "the request body must be a JSON object", "invalid_json")
    return body


def read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_value("model", "model must name the model to use", "missing_model")
    return model


def read_messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    """Chat messages; content may be a string or a list of text parts."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_value("messages", "messages must be a non-empty list")
    return tuple(_read_message(i, message) for i, message in enumerate(messages))


def _read_message(i: int, message: Any) -> Message:
    where = f"messages[{i}]"
    if not isinstance(message, dict):
        raise bad_value(where, f"{where} must be an object with role and content")
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
            raise bad_value(f"{where}.content", f"{where}.content may hold text parts only")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise bad_value(f"{where}.content", f"{where}.content must be text")
    return Message(role, content)


def read_prompt(body: Mapping[str, Any]) -> str | tuple[int, ...]:
    """The prompt of a completion: text or token ids; one prompt per request."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_integer(token) for token in prompt):
        return tuple(prompt)
    raise bad_value("prompt", "prompt must be one non-empty text or one non-empty list of token ids")


def read_options(body: Mapping[str, Any]) -> Options:
    """Everything but the prompt. Raises ApiError (400) that names the field."""
    for name, unused in _UNSUPPORTED.items():
        value = body.get(name)
        if value is not None and value not in unused:
            raise bad_value(name, f"{name} is not supported by this model node", "unsupported_parameter")
    stream_options = body.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise bad_value("stream_options", "stream_options must be an object")
    streaming = stream_options or {}
    max_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = _integer(body, max_name, None)
    if max_tokens is not None and max_tokens < 1:
        raise bad_value(max_name, f"{max_name} must be at least 1")
    return Options(
        model=read_model(body),
        max_tokens=max_tokens,
        settings=_settings(body),
        stop=_stop(body),
        ignore_stop_tokens=_flag(body, "ignore_eos"),
        is_streamed=_flag(body, "stream"),
        include_usage=_flag(streaming, "include_usage"),
        continuous_usage=_flag(streaming, "continuous_usage_stats"),
    )


def _settings(body: Mapping[str, Any]) -> SamplingSettings:
    try:
        return SamplingSettings(
            temperature=_number(body, "temperature", 1.0),
            top_p=_number(body, "top_p", 1.0),
            top_k=_integer(body, "top_k", 0) or 0,
            seed=_integer(body, "seed", None),
        )
    except SamplingError as error:
        raise bad_value(error.parameter, str(error)) from error


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or len(texts) > MAX_STOP_STRINGS:
        raise bad_value("stop", f"stop must be a text or a list of at most {MAX_STOP_STRINGS}")
    if not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARACTERS for text in texts):
        raise bad_value("stop", f"each stop text must have 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(texts)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(body: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if not _is_integer(value):
        raise bad_value(name, f"{name} must be a whole number")
    return int(value)


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_value(name, f"{name} must be a number")
    return float(value) if abs(value) < 1e9 else 1e9  # an integer may be too large for a float


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_value(name, f"{name} must be true or false")
    return value
