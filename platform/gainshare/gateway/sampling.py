"""Checks of a request's sampling settings. Pure functions; see OpenAI's API reference."""

import math
from collections.abc import Mapping
from typing import Any

from gainshare.gateway.errors import BadRequest

# (lowest, highest) of each real-valued setting, inclusive.
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 10.0),
}
BIAS_RANGE = (-100.0, 100.0)
MAX_BIASES = 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
SEED_RANGE = (-(2**63), 2**63 - 1)
MAX_STOP_TOKENS = 1024
MAX_TOKEN_ID = 2**31 - 1
TOP_K_RANGE = (-1, 2**31 - 1)  # 0 and -1 both keep all tokens
# OpenAI's settings, and some of vLLM's.
SAMPLING = {*RANGES, "stop", "stop_token_ids", "min_tokens", "seed", "top_k", "ignore_eos", "logit_bias"}


def checked_sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings in `body`; raises `BadRequest` for invalid values."""
    sampling: dict[str, Any] = {}
    for name, (lowest, highest) in RANGES.items():
        if (value := body.get(name)) is not None:
            sampling[name] = _real(name, value, lowest, highest)
    if sampling.get("top_p") == 0:
        raise BadRequest("'top_p' must be above 0: no token would be left to choose from.", param="top_p")
    if sampling.get("repetition_penalty") == 0:
        raise BadRequest("'repetition_penalty' must be above 0.", param="repetition_penalty")
    if (biases := body.get("logit_bias")) not in (None, {}):
        sampling["logit_bias"] = _biases(biases)
    if (top_k := body.get("top_k")) is not None:
        sampling["top_k"] = whole("top_k", top_k, *TOP_K_RANGE)
    if (seed := body.get("seed")) is not None:
        sampling["seed"] = whole("seed", seed, *SEED_RANGE) % 2**63  # nodes take no negative ones
    if (stop := body.get("stop")) is not None:
        sampling["stop"] = _stops(stop)
    if (ids := body.get("stop_token_ids")) is not None:
        sampling["stop_token_ids"] = _token_ids(ids)
    if (min_tokens := body.get("min_tokens")) is not None:
        sampling["min_tokens"] = whole("min_tokens", min_tokens, 0, MAX_TOKEN_ID)
    if (ignore_eos := body.get("ignore_eos")) is not None:
        if not isinstance(ignore_eos, bool):
            raise BadRequest("'ignore_eos' must be true or false.", param="ignore_eos", code="invalid_type")
        sampling["ignore_eos"] = ignore_eos
    return sampling


def _real(name: str, value: Any, lowest: float, highest: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise BadRequest(f"'{name}' must be a number.", param=name, code="invalid_type")
    if value < lowest:
        raise BadRequest(
            f"'{name}' is {value}; it must be at least {lowest:g}.",
            param=name,
            code="decimal_below_min_value",
        )
    if value > highest:
        raise BadRequest(
            f"'{name}' is {value}; it must be at most {highest:g}.",
            param=name,
            code="decimal_above_max_value",
        )
    return float(value)


def whole(name: str, value: Any, lowest: int, highest: int) -> int:
    """Return `value` if it is a whole number within the limits; else raise `BadRequest` naming `name`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"'{name}' must be a whole number.", param=name, code="invalid_type")
    if not lowest <= value <= highest:
        raise BadRequest(f"'{name}' must be between {lowest} and {highest}.", param=name)
    return value


def _biases(biases: Any) -> dict[str, float]:
    """Biases that are added to logits, by token id."""
    if not isinstance(biases, dict):
        raise BadRequest("'logit_bias' must be an object.", param="logit_bias", code="invalid_type")
    if len(biases) > MAX_BIASES:
        raise BadRequest(f"'logit_bias' may name at most {MAX_BIASES} tokens.", param="logit_bias")
    for token in biases:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise BadRequest("'logit_bias' must map token ids to numbers.", param="logit_bias")
    return {token: _real("logit_bias", bias, *BIAS_RANGE) for token, bias in biases.items()}


def _stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise BadRequest(
            "'stop' must be a text or a list of texts, none empty.", param="stop", code="invalid_type"
        )
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"'stop' may hold at most {MAX_STOPS} texts.", param="stop")
    if any(len(text) > MAX_STOP_CHARACTERS for text in stops):
        raise BadRequest(
            f"Each text in 'stop' may have at most {MAX_STOP_CHARACTERS} characters.", param="stop"
        )
    return stops


def _token_ids(ids: Any) -> list[int]:
    if not isinstance(ids, list):
        raise BadRequest("'stop_token_ids' must be a list.", param="stop_token_ids", code="invalid_type")
    if len(ids) > MAX_STOP_TOKENS:
        raise BadRequest(
            f"'stop_token_ids' may name at most {MAX_STOP_TOKENS} tokens.", param="stop_token_ids"
        )
    return [whole("stop_token_ids", token, 0, MAX_TOKEN_ID) for token in ids]
