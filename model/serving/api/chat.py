"""Render chat messages to the prompt text that a model was trained on.

Templates come with downloaded models, so they run in Jinja's sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_FILE = "chat_template.jinja"

# The tiny random model is untrained; this template only marks the roles.
TINY_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NOT_USED: Mapping[str, None] = {
    "tools": None,
    "documents": None,
}  # some templates test whether they are `none`
# For models that were not trained on chats.
NO_TEMPLATE = "{{ raise_exception('this model has no chat template: use /v1/completions') }}"


class ChatError(ValueError):
    """A chat template that refuses these messages, or is broken."""


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


class ChatTemplate:
    """A compiled template with the variables, functions and filters that templates of Hugging Face expect.

    `special_tokens` are the tokenizer's, by the names that templates know them under: `bos_token`, `eos_token`.
    Today's date (`strftime_now`) is not among them: a template that finds it writes it into the prompt, which would
    then change each day. Raises ChatError.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _as_json  # Jinja's own is for HTML
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatError(f"the model's chat template does not compile: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that asks for the assistant's next message. Raises ChatError."""
        values = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=values, add_generation_prompt=True, **NOT_USED, **self._special_tokens
            )
        except Exception as error:  # a template is a program of the model's author
            what = str(error) or type(error).__name__
            raise ChatError(f"the model's chat template refuses these messages: {what}") from error


def _refuse(message: str) -> None:
    raise ChatError(message)


def _as_json(value: object, **options: Any) -> str:
    """transformers' `tojson` filter: `indent` and the other options of `json.dumps`, non-ASCII characters unescaped."""
    return json.dumps(value, **{"ensure_ascii": False, **options})
