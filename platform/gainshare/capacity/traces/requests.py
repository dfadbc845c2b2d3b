"""One request of a trace, and a trace as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A request: seconds since the trace began, tokens of prompt and answer, and its prefix.

    ``blocks`` are the hashes of the prompt's blocks of ``Trace.block_tokens`` tokens, each with all before it; empty where
    the trace says nothing of prefixes. ``account`` numbers whose request it is, as far as the trace tells.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    account: int = 0


class Trace(Protocol):
    """Requests in the order of their arrival, read as often as wanted. ``name`` and ``digest`` say what it was."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def block_tokens(self) -> int: ...
    def __iter__(self) -> Iterator[TraceRequest]: ...
