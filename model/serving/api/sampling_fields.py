"""Read a request's sampling fields and its number of answers. Pure.

Names are OpenAI's, and vLLM's for `top_k`, `min_p` and `repetition_penalty`.
"""

from __future__ import annotations

from model.sampling import MAX_SEED, MAX_TOP_LOGPROBS, SamplingError, SamplingSettings
from model.serving.api.errors import bad_value
from model.serving.api.fields import Body, flag, is_real, real, section, whole

MAX_ANSWERS = 16
MAX_BIASES = 1024


def read_settings(body: Body, *, is_chat: bool) -> SamplingSettings:
    """Read the sampling settings. Raises ApiError (400) that names the field at fault."""
    try:
        return SamplingSettings(
            temperature=real(body, "temperature", 1.0),
            top_p=real(body, "top_p", 1.0),
            top_k=read_top_k(body),
            min_p=real(body, "min_p", 0.0),
            seed=read_seed(body),
            presence_penalty=real(body, "presence_penalty", 0.0),
            frequency_penalty=real(body, "frequency_penalty", 0.0),
            repetition_penalty=real(body, "repetition_penalty", 1.0),
            logit_bias=read_logit_bias(body),
            logprobs=read_logprobs(body, is_chat=is_chat),
        )
    except SamplingError as error:
        raise bad_value(error.parameter, str(error)) from error


def read_seed(body: Body) -> int | None:
    """Read a signed 64-bit seed, as OpenAI and vLLM take it; samplers need one that is not negative."""
    seed = whole(body, "seed", lowest=-MAX_SEED - 1, highest=MAX_SEED)
    return None if seed is None else seed & MAX_SEED


def read_top_k(body: Body) -> int:
    """Read `top_k`; 0 keeps all tokens, which vLLM also writes as -1."""
    top_k = whole(body, "top_k") or 0
    return 0 if top_k == -1 else top_k


def read_answers(body: Body) -> int:
    """Read the number of answers. `best_of` must not be larger: this node returns every answer that it computes."""
    n = whole(body, "n", lowest=1, highest=MAX_ANSWERS) or 1
    best_of = whole(body, "best_of")
    if best_of is not None and best_of != n:
        raise bad_value("best_of", "best_of is not supported by this model node", "unsupported_parameter")
    return n


def read_logprobs(body: Body, *, is_chat: bool) -> int | None:
    """Read the number of alternatives per token's log-probability; None for no log-probabilities.

    Chats ask with a flag and `top_logprobs`, completions with one number.
    """
    if not is_chat:
        return whole(body, "logprobs", lowest=0, highest=MAX_TOP_LOGPROBS) if _is_number(body) else None
    top = whole(body, "top_logprobs", lowest=0, highest=MAX_TOP_LOGPROBS)
    if flag(body, "logprobs"):
        return top or 0
    if top:
        raise bad_value("top_logprobs", "top_logprobs needs logprobs to be true")
    return None


def _is_number(body: Body) -> bool:
    """Whether `logprobs` is a number; `false` counts as missing, in completions too."""
    return body.get("logprobs") is not False


def read_logit_bias(body: Body) -> dict[int, float]:
    """Read `logit_bias`: token id -> number added to its logit. JSON's keys are strings, so ids are strings of digits."""
    given = section(body, "logit_bias")
    if len(given) > MAX_BIASES:
        raise bad_value("logit_bias", f"logit_bias may name at most {MAX_BIASES} tokens")
    biases: dict[int, float] = {}
    for token, bias in given.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise bad_value("logit_bias", "logit_bias must map token ids to numbers")
        if not is_real(bias):
            raise bad_value("logit_bias", f"logit_bias[{token}] must be a number")
        biases[int(token)] = float(max(-1e9, min(1e9, bias)))
    return biases
