"""Reads typed fields out of a JSON object and refuses the others by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.serving.api.errors import bad_value

Body = Mapping[str, Any]
LARGE = 1e9  # beyond any setting; an integer of JSON may be too large for a float


def whole(body: Body, name: str, *, lowest: int | None = None, highest: int | None = None) -> int | None:
    """Read a whole number; None if it is missing. Raises ApiError (400)."""
    value = body.get(name)
    if value is None:
        return None
    if not is_whole(value):
        raise bad_value(name, f"{name} must be a whole number")
    if lowest is not None and value < lowest:
        raise bad_value(name, f"{name} must be at least {lowest}")
    if highest is not None and value > highest:
        raise bad_value(name, f"{name} must be at most {highest}")
    return int(value)


def real(body: Body, name: str, default: float) -> float:
    """Read a number; the caller checks its range. Raises ApiError (400)."""
    value = body.get(name)
    if value is None:
        return default
    if not is_real(value):
        raise bad_value(name, f"{name} must be a number")
    return float(max(-LARGE, min(LARGE, value)))


def flag(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_value(name, f"{name} must be true or false")
    return value


def section(body: Body, name: str) -> Body:
    """Read a nested object, empty if it is missing. Raises ApiError (400)."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_value(name, f"{name} must be an object")
    return value


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a JSON number other than `NaN`, which Python's reader accepts."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
