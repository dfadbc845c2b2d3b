"""Checks the fields that describe the wanted answers: number, format, log-probabilities and urgency. Pure functions.

Numbers are bounded here, because holds depend on them. The node decides whether a model can follow a schema.
"""

from collections.abc import Mapping
from typing import Any

from gainshare.gateway.errors import BadRequest
from gainshare.gateway.sampling import whole

MAX_ANSWERS = 16
MAX_TOP_LOGPROBS = 20
FORMATS = ("text", "json_object", "json_schema")
# Extension of this platform: {"priority": …, "deadline_ms": …}. Users can only lower their priority.
EXTENSION = "gainshare"
PRIORITIES = (-100, 0)
MAX_DEADLINE_MS = 24 * 3600 * 1000


def n_answers(body: Mapping[str, Any]) -> int:
    """Number of requested answers."""
    return 1 if body.get("n") is None else whole("n", body["n"], 1, MAX_ANSWERS)


def checked_answers(body: Mapping[str, Any], *, is_chat: bool) -> dict[str, Any]:
    """Check the fields and return those to pass on; raises `BadRequest`."""
    passed_on: dict[str, Any] = {}
    if (n := n_answers(body)) > 1:
        passed_on["n"] = n
    passed_on |= _logprobs(body) if is_chat else _completion_logprobs(body)
    if (form := body.get("response_format")) is not None:
        if not isinstance(form, dict) or form.get("type") not in FORMATS:
            raise BadRequest(
                f"'response_format.type' must be one of {', '.join(FORMATS)}.", param="response_format"
            )
        if form["type"] != "text":
            passed_on["response_format"] = form
    if (extension := body.get(EXTENSION)) is not None:
        passed_on[EXTENSION] = _extension(extension)
    return passed_on


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = body.get("logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise BadRequest("'logprobs' must be true or false.", param="logprobs", code="invalid_type")
    top = body.get("top_logprobs")
    n_top = 0 if top is None else whole("top_logprobs", top, 0, MAX_TOP_LOGPROBS)
    if n_top and not wanted:
        raise BadRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return {"logprobs": True, "top_logprobs": n_top} if wanted else {}


def _completion_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = body.get("logprobs")
    return {} if wanted in (None, False) else {"logprobs": whole("logprobs", wanted, 0, MAX_TOP_LOGPROBS)}


def _extension(extension: Any) -> dict[str, int]:
    if not isinstance(extension, dict):
        raise BadRequest(f"'{EXTENSION}' must be an object.", param=EXTENSION, code="invalid_type")
    limits = {"priority": PRIORITIES, "deadline_ms": (1, MAX_DEADLINE_MS)}
    for name in extension:
        if name not in limits:
            param = f"{EXTENSION}.{name[:100]}"
            raise BadRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    return {
        name: whole(f"{EXTENSION}.{name}", value, *limits[name])
        for name, value in extension.items()
        if value is not None
    }
