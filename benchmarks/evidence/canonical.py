"""Canonical JSON: the one sequence of bytes that a value has, for hashing and signing.

Keys sorted by code point, no white space, UTF-8, integers only. Floats are refused: two machines may print them
differently, and times are whole nanoseconds anyway. A narrow form of RFC 8785 (JCS).
"""

import json
from typing import Any

MAX_INTEGER = 2**63 - 1
MAX_DEPTH = 32


class NotCanonical(ValueError):
    """A value that has no canonical form, or text that is not strict JSON."""


def canonical_bytes(value: Any) -> bytes:
    """The canonical JSON of `value`: dicts with string keys, lists, strings, integers, booleans, None."""
    _check(value, 0)
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        ).encode()
    except UnicodeEncodeError:
        raise NotCanonical("a string holds a lone surrogate") from None


def parse(data: bytes | str) -> Any:
    """Read JSON strictly: no floats, no NaN, no key twice, nothing that `canonical_bytes` would refuse."""
    try:
        value = json.loads(
            data.decode() if isinstance(data, bytes) else data,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            object_pairs_hook=_unique,
        )
    except NotCanonical:
        raise
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"this is not JSON: {error}") from None
    _check(value, 0)
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise NotCanonical("a key is not a string")
            _check(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    elif type(value) is int:
        if abs(value) > MAX_INTEGER:
            raise NotCanonical("an integer has more than 63 bits")
    elif value is not None and type(value) not in (str, bool):
        raise NotCanonical(
            f"a {type(value).__name__} is where only text, whole numbers, booleans and null may be"
        )


def _refuse_number(text: str) -> Any:
    raise NotCanonical(f"{text[:40]} is not a whole number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotCanonical("a key is repeated in one object")
    return result
