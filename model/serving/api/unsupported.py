"""Refuse, by name, fields that would change an answer and that no backend of a node implements.

From OpenAI's reference and vLLM's protocol (0.32), and the grammars of SGLang and llama.cpp. Fields of speed, user or
order alone are not among them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.serving.api.errors import ApiError, bad_value
from model.serving.api.fields import Body

# Field -> the values, in addition to null, that mean "not used".
_FIELDS: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # the same without tools
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "echo": (False,),
    "suffix": ("",),
    # vLLM: choosing tokens, and where an answer ends
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "watermarking": (False,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "logits_processors": ([],),
    "repetition_detection": (),
    "thinking_token_budget": (),
    "vllm_xargs": ({},),
    # vLLM: what the answer shows
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (),
    "logprob_token_ids": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    # vLLM: how the prompt is made
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "add_special_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "documents": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    # forms of the answer other than `response_format`
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structural_tag": (),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "grammar": ("",),
}
_MESSAGE_FIELDS = ("tool_calls", "function_call", "audio")


def refuse_unsupported(body: Body) -> None:
    """Raises ApiError (400) that names a request's first unsupported field."""
    for name, unused in _FIELDS.items():
        value = body.get(name)
        if value is not None and value not in unused:
            raise unsupported(name)


def refuse_unsupported_message(message: Body, where: str) -> None:
    """Raises ApiError (400) that names the first unsupported field of the chat message at `where`."""
    for name in _MESSAGE_FIELDS:
        if message.get(name):
            raise unsupported(f"{where}.{name}")


def unsupported(name: str) -> ApiError:
    """An error 400 that names the field."""
    return bad_value(name, f"{name} is not supported by this model node", "unsupported_parameter")
