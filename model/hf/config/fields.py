"""Rules that translate single fields of Hugging Face's `config.json` to and from a `ModelConfig`.

A family is a tuple of rules. Each reads its part of their configuration into a nested dict of our fields, and writes
the same part back. Names with a dot reach into `moe` and `latent`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from model.config import ModelConfig
from model.hf.errors import UnsupportedModel

CONFIG_FILE = "config.json"
# Far beyond any model; products still fit the sizes of tensors, and counts the memory.
MOST_WIDTH = 1 << 20
MOST_VOCABULARY = 1 << 24
MOST_EXPERTS = 1 << 16
MOST_CONTEXT = 1 << 30

Theirs = Mapping[str, Any]
Ours = dict[str, Any]

REQUIRED: Final = object()
_REMEDY = f"correct {CONFIG_FILE}, or fetch the folder again"
_MOST_SHOWN = 200  # characters
_LONGEST_SHOWN = 10**30
_LOG = logging.getLogger("model.hf")


class Rule(Protocol):
    """Interface of a rule: one part of a configuration, translated both ways. Both methods raise UnsupportedModel."""

    def read(self, theirs: Theirs, ours: Ours) -> None:
        """Add this part to `ours`, after the rules before it."""

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Add this part of `config` to `theirs`."""


@dataclass(frozen=True)
class Field:
    """A value with the same meaning on both sides, under one of their names and all of our names.

    Where it is missing, or null without `is_optional`, its value is `default`, or that of our field `same_as`.
    """

    theirs: str | tuple[str, ...]  # the first is written, all are read
    ours: str | tuple[str, ...]  # the first is written from, all are read into
    kind: type[int] | type[float] | type[bool] = int
    default: Any = REQUIRED
    same_as: str | None = None
    is_optional: bool = False  # null is a valid value
    most: int = MOST_WIDTH  # of whole numbers, which are at least 1

    def read(self, theirs: Theirs, ours: Ours) -> None:
        names = _names(self.theirs)
        name = next((name for name in names if name in theirs), names[0])
        value = theirs.get(name)
        if value is None and not (self.is_optional and name in theirs):
            value = self._missing(name, ours)
        value = self._typed(name, value)
        for path in _names(self.ours):
            put(ours, path, value)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs[_names(self.theirs)[0]] = pick(config, _names(self.ours)[0])

    def _typed(self, name: str, value: Any) -> Any:
        """The value as `kind`; it is not null."""
        if value is None:
            return None
        if self.kind is bool:
            return flag(name, value)
        return number(name, value) if self.kind is float else whole(name, value, most=self.most)

    def _missing(self, name: str, ours: Ours) -> Any:
        if self.same_as is not None:
            return ours[self.same_as]
        if self.default is REQUIRED:
            raise UnsupportedModel(f"config.json has no {name}: fetch it again")
        return self.default


@dataclass(frozen=True)
class Fixed:
    """A field of theirs that may only have `values` of equal meaning; the first is the default of a missing one."""

    theirs: str
    values: tuple[Any, ...]
    why: str
    is_written: bool = True

    def read(self, theirs: Theirs, ours: Ours) -> None:
        value = theirs.get(self.theirs)
        if value is not None and (type(value), value) not in [(type(each), each) for each in self.values]:
            raise UnsupportedModel(f"{self.theirs} = {shown(value)} is not supported: {self.why}")

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        if self.is_written:
            theirs[self.theirs] = self.values[0]


@dataclass(frozen=True)
class Always:
    """A field of ours with one value in the whole family, without a field of theirs.

    Another value is detected when the written configuration is read back, see `Family.write_config`.
    """

    ours: str
    value: Any

    def read(self, theirs: Theirs, ours: Ours) -> None:
        put(ours, self.ours, self.value)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Write nothing: they have no such field."""


@dataclass(frozen=True)
class Written:
    """A field of theirs without meaning for us, with the value that holds for the models that we write."""

    theirs: str
    value: Any

    def read(self, theirs: Theirs, ours: Ours) -> None:
        """Read nothing: we have no such field."""

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs[self.theirs] = self.value


@dataclass(frozen=True)
class Divisible:
    """Our field `whole` must be a multiple of `part`: transformers refuses the model otherwise."""

    whole: str
    part: str

    def read(self, theirs: Theirs, ours: Ours) -> None:
        """Read nothing: the writer of the file has checked this."""

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        if pick(config, self.whole) % pick(config, self.part):
            raise UnsupportedModel(f"ModelConfig.{self.whole} must be a multiple of {self.part}")


@dataclass(frozen=True)
class TrainingOnly:
    """A field that affects training alone and has no counterpart here: logged if it is set, never an error."""

    theirs: str

    def read(self, theirs: Theirs, ours: Ours) -> None:
        if theirs.get(self.theirs):
            _LOG.warning("%s = %r affects training only and is left out", self.theirs, theirs[self.theirs])

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Write nothing: their default of 0 is our behaviour."""


def put(ours: Ours, path: str, value: Any) -> None:
    """Set a field of a nested dict; `moe.top_k` is `ours["moe"]["top_k"]`."""
    *parents, field = path.split(".")
    for parent in parents:
        ours = ours.setdefault(parent, {})
    ours[field] = value


def pick(config: ModelConfig, path: str) -> Any:
    """The value of a field such as `moe.top_k`. Raises UnsupportedModel where that part is None."""
    value: Any = config
    *parents, field = path.split(".")
    for parent in parents:
        value = getattr(value, parent)
        if value is None:
            raise UnsupportedModel(f"ModelConfig.{parent} must be given")
    return getattr(value, field)


def number(name: str, value: Any) -> float:
    """Check a finite number; whole ones are accepted as fractions. Raises UnsupportedModel."""
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise UnsupportedModel(f"{name} must be a number, not {shown(value)}: {_REMEDY}")
    return float(value)


def whole(name: str, value: Any, *, least: int = 1, most: int = MOST_WIDTH) -> int:
    """Check an integer within bounds, both included; 128.0, true and "128" are refused. Raises UnsupportedModel."""
    if type(value) is not int:
        raise UnsupportedModel(f"{name} must be a whole number, not {shown(value)}: {_REMEDY}")
    if value < least:
        raise UnsupportedModel(f"{name} must be at least {least}, not {shown(value)}: {_REMEDY}")
    if value > most:
        raise UnsupportedModel(f"{name} must be at most {most}, not {shown(value)}: {_REMEDY}")
    return value


def flag(name: str, value: Any) -> bool:
    """Check a value for true or false. Raises UnsupportedModel."""
    if type(value) is not bool:
        raise UnsupportedModel(f"{name} must be true or false, not {shown(value)}: {_REMEDY}")
    return value


def shown(value: object) -> str:
    """A value of a file as text for errors, shortened if it is long."""
    if type(value) is int and abs(value) >= _LONGEST_SHOWN:
        return "a number of more than 30 digits"  # Python refuses to write very long ones
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
