"""Tables of a TOML file as frozen dataclasses, with errors that name the key and its nearest right spelling.

Does not import torch.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from model.config import ConfigError

T = TypeVar("T")
LARGEST = 2**63 - 1  # of a whole number in TOML


def read_table(kind: type[T], table: Any, where: str) -> T:
    """`table`, found at `where` ("[recipe]"), as the dataclass `kind`; keys that are left out take its defaults.

    Raises ConfigError for unknown and missing keys, values of another type, and what `kind` itself refuses.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, not {_shown(table)}")
    where = as_table(where)
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]  # a dataclass
    require_known(table, known, where)
    required = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
    for name in required:
        if name not in table:
            raise ConfigError(f"{where} needs a value for {name!r}")
    hints = get_type_hints(kind)
    return kind(**{name: convert(hints[name], value, _inside(where, name)) for name, value in table.items()})


def require_known(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises ConfigError for the first key that is not among `known`, naming the nearest that is."""
    known = list(known)
    for key in table:
        if key not in known:
            raise ConfigError(f"{where} has no key {key!r}{nearest(key, known)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """': did you mean ...?', or the list of all choices if none is similar."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known)}"


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`: an integer is accepted as a float, a string as a path, a list as a tuple.

    Raises ConfigError for values of another type, and for numbers that are not finite.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else convert(kinds[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} cannot be {value!r}{nearest(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {_shown(value)}")
        return {key: convert(arguments[1], item, _inside(where, key)) for key, item in value.items()}
    if is_dataclass(hint):
        return read_table(hint, value, where)  # type: ignore[arg-type]  # a class, not an instance
    return _plain(hint, value, where)


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, not {_shown(value)}")
    if arguments[-1] is Ellipsis:
        kinds: list[Any] = [arguments[0]] * len(value)
    elif len(arguments) == len(value):
        kinds = list(arguments)
    else:
        raise ConfigError(f"{where} must have {len(arguments)} values, not {len(value)}")
    return tuple(
        convert(kind, item, f"{where}[{number}]")
        for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if type(value) is int and not -LARGEST <= value <= LARGEST:
        raise ConfigError(f"{where} must fit in 64 bits, which {_shown(value)} does not")
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, not {value}")
    if hint is float and type(value) is int:
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    raise ConfigError(f"{where} must be {names.get(hint, hint)}, not {_shown(value)}")


def _inside(where: str, key: str) -> str:
    """[recipe] and learning_rate: "[recipe] learning_rate"; "[model] moe" and top_k: "[model.moe] top_k"."""
    return f"{as_table(where)} {key}"


def as_table(where: str) -> str:
    """A table within a table as TOML heads it: "[model] moe" as "[model.moe]"."""
    table, _, inner = where.partition("] ")
    return f"{table}.{inner}]" if inner else where


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
