"""Chat messages to the prompt text that a model was trained on.

Templates come with downloaded models, so they run in Jinja's sandbox. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_FILE = "chat_template.jinja"

# The tiny random model was trained on nothing; this only marks who speaks.
TINY_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# For models that were trained on no chats.
NO_TEMPLATE = "{{ raise_exception('this model has no chat template: use /v1/completions') }}"


class ChatError(ValueError):
    """The template refuses these messages, or is broken."""


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


class ChatTemplate:
    """A compiled template with the variables and functions that templates of Hugging Face expect."""

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatError(f"the model's chat template does not compile: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that asks for the assistant's next message. Raises ChatError."""
        values = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=values, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ChatError(f"the model's chat template refuses these messages: {error}") from error


def _refuse(message: str) -> None:
    raise ChatError(message)
