"""Limit the tokens of prompt and answer to the model's context. Pure."""

from __future__ import annotations

from model.serving.api.errors import bad_value
from model.serving.api.requests import COMPLETION_DEFAULT_TOKENS, Options
from model.serving.api.tokenizer import Tokenizer


def check_length(tokenizer: Tokenizer, text: str, max_context: int, *, is_chat: bool) -> None:
    """Raises ApiError (400) for a prompt that is certainly too long, before the work of encoding it."""
    least = tokenizer.least_tokens(text)
    if least > max_context:
        raise bad_value(
            "messages" if is_chat else "prompt",
            f"this model has a context of {max_context} tokens on this node; the prompt has {len(text):,} characters, at "
            f"least {least} tokens. Shorten the prompt",
            "context_length_exceeded",
        )


def room_for(n_prompt: int, max_context: int, options: Options, *, is_chat: bool) -> int:
    """Maximum tokens of each answer. Raises ApiError (400) where prompt and answer cannot fit the context.

    Without `max_tokens` a chat may fill the context, and a completion gets OpenAI's sixteen tokens.
    """
    room = max_context - n_prompt
    default = room if is_chat else min(COMPLETION_DEFAULT_TOKENS, room)
    wanted = options.max_tokens if options.max_tokens is not None else default
    if room < 1 or wanted > room:
        raise bad_value(
            "messages" if is_chat else "prompt",
            f"this model has a context of {max_context} tokens on this node; the prompt has {n_prompt} and {max(wanted, 0)} more "
            "were asked for. Shorten the prompt or lower max_tokens",
            "context_length_exceeded",
        )
    return wanted
