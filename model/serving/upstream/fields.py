"""Translate a request's settings into the fields of another server. Pure.

A server may ignore fields that it does not support: only vLLM, SGLang, llama.cpp and our own nodes are known here.
"""

from __future__ import annotations

from typing import Any

from model.serving.api.fields import Body
from model.serving.api.unsupported import unsupported

# Fields that are passed on unchanged after the checks.
PASSED_ON = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "logprobs", "top_logprobs", "stop", "stop_token_ids", "min_tokens", "n",
    "response_format", "ignore_eos",
)  # fmt: skip
UNKNOWN_TO_LLAMA_CPP = ("stop_token_ids", "min_tokens")
ALL_TOKENS = -1  # of the vocabulary for `top_k`, of prompt and answer for `repeat_last_n`


def settings_for(body: Body, *, is_llama_cpp: bool) -> dict[str, Any]:
    """The fields of a checked request, without model, prompt and stream.

    Raises ApiError (400) for one that the server is known to ignore.
    """
    fields = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if fields.get("top_k") == 0:
        fields["top_k"] = ALL_TOKENS  # SGLang refuses 0
    for name in UNKNOWN_TO_LLAMA_CPP if is_llama_cpp else ():
        if fields.pop(name, None):
            raise unsupported(name)
    if is_llama_cpp and "repetition_penalty" in fields:
        fields["repeat_penalty"] = fields.pop("repetition_penalty")
        fields["repeat_last_n"] = ALL_TOKENS  # otherwise the last 64
    return fields
