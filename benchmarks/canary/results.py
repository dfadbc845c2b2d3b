"""Values of a canary's verdict: lines, times of a token, passed and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LineResult:
    """One line of the candidate compared with another tree, in millionths of a nat: above zero is cheaper.

    `bound_log_ppm` is the one-sided 95 % lower bound of all pairs, `estimate_log_ppm` their median.
    """

    bound_log_ppm: int
    estimate_log_ppm: int
    pairs: int


@dataclass(frozen=True, slots=True)
class BatchTime:
    """How long one token of an answer took at so many answers at once, in nanoseconds: of the candidate, and of the served tree."""

    batch: int
    candidate_ns: int
    served_ns: int


@dataclass(frozen=True, slots=True)
class PrefillTime:
    """How long a request for one token took whose prompt has so many tokens, in nanoseconds: of both trees as well."""

    prompt_tokens: int
    candidate_ns: int
    served_ns: int


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """`passed` and why. `served` and `best` are lines by name, against the tree served and the tree that prices rest on."""

    passed: bool
    why: str
    served: dict[str, LineResult] = field(default_factory=dict)
    best: dict[str, LineResult] = field(default_factory=dict)
    batch_times: tuple[BatchTime, ...] = ()
    prefill_times: tuple[PrefillTime, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
