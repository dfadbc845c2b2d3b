"""Interface of a suite: families of secret problems, their exact answers, tolerances and limits.

A suite measures in one of two ways. Most time *calls*: both sides answer the same fresh inputs by turns, and a pair's
number is the median of the turns' ratios. The others hold a *trial*: each side ends a pair with one value in a unit of
the suite's own (bytes, loss, time until a target), of which less is better.

All figures of a suite are whole numbers (nanoseconds,
bytes, parts per million or per billion), because they go into signed evidence.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogue import Case, SuiteInfo, TimeLimits

Array = NDArray[Any]
Tensors = dict[str, Array]
WARM_UP = -1  # the turn before the first timed one
PPM = 1_000_000
SAMPLES = Path(__file__).with_name("samples")  # the sandboxed halves


@dataclass(frozen=True)
class TensorSpec:
    """Exact name, type and shape of one tensor."""

    name: str
    dtype: str  # a numpy name: float32, int64 ...
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of an answer. Distances are relative to the root mean square of the right answer."""

    rms_ppb: int  # candidate against base's answer to the same input: root mean square, parts per billion
    peak_ppb: int  # ... and the largest single element
    error_ratio_ppm: int = 1_250_000  # candidate's error against the oracle, as a multiple of base's
    drift_ratio_ppm: int = (
        2_000_000  # ... and of a plain single-precision implementation's, so that gains cannot add up
    )

    def times(self, patches: int) -> Tolerance:
        """Tolerance of answers of trees that are so many patches apart, each of which had this tolerance.

        The limit against a plain implementation stays: it holds for every tree.
        """
        ratio = PPM
        for _ in range(patches):
            ratio = ratio * self.error_ratio_ppm // PPM
        return replace(
            self,
            rms_ppb=patches * self.rms_ppb,
            peak_ppb=patches * self.peak_ppb,
            error_ratio_ppm=ratio,
        )


@dataclass(frozen=True)
class Exchange:
    """One message to a sample and the form of its answer."""

    inputs: Tensors
    outputs: tuple[TensorSpec, ...]


def joined(answers: Sequence[Tensors]) -> Tensors:
    """The answer of a call from those to its messages: tensors of one name follow each other along the first axis."""
    parts: dict[str, list[Array]] = {}
    for answer in answers:
        for name, value in answer.items():
            parts.setdefault(name, []).append(value)
    return {name: np.concatenate(values) if len(values) > 1 else values[0] for name, values in parts.items()}


class Problem(ABC):
    """One pair's secret instance of a case: fixed weights, and fresh inputs for every turn.

    Turns are asked for in order: the untimed warm-up (`WARM_UP`), then 0, 1, 2 ... A problem may remember the turns
    before, as decoding does. `exact` and `plain` are asked only for some turns, each after its inputs were drawn.
    """

    config: dict[str, int | str]  # what the sample-side needs to build its module
    weights: Tensors
    outputs: tuple[TensorSpec, ...]  # of every timed call
    floor_flops: int  # no right answer can be computed with fewer floating-point operations; 0 says nothing

    @abstractmethod
    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        """Fresh inputs for one timed call."""

    def before(self, rng: np.random.Generator, turn: int) -> Tensors | None:
        """Inputs of an untimed call that comes before the timed one of `turn`; its answers are compared as well."""
        return None

    def outputs_for(self, inputs: Tensors) -> tuple[TensorSpec, ...]:
        """Tensors of the answer to `inputs`; they differ from `outputs` only where there are untimed calls."""
        return self.outputs

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        """The messages of the call with `inputs`, in order. Each is sent after the answer to the one before it.

        A message holds what one call of the stack needs and nothing of the next: the submitted code shares its
        process with whatever was sent. One clock runs from the first message to the last answer.
        """
        return (Exchange(inputs, self.outputs_for(inputs)),)

    @abstractmethod
    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        """The answer in double precision."""

    @abstractmethod
    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        """The answer of a plain implementation in the outputs' own precision."""


class TrialSides(Protocol):
    """The two sides of a pair as a trial sees them: the core keeps clock, freezing and order."""

    @property
    def names(self) -> tuple[str, str]:
        """Both sides, in this pair's secret order."""

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        """One call of one side: its finite answers and the nanoseconds it took; frozen before and afterwards."""

    def peak_memory_bytes(self, name: str) -> int:
        """The most memory that the side has used so far."""

    def numbers(self, *label: str | int) -> np.random.Generator:
        """A generator of this pair's own for `label`."""

    def checked(self, *, with_oracle: bool) -> None:
        """Counts one answer that the trial has checked."""

    def fail(self, kind: str, name: str, detail: str) -> Exception:
        """The exception to raise for what a side did wrong; `kind` is one of the evidence's event kinds."""


class Trial(ABC):
    """Measurement of one value of each side, in the suite's unit. Holds no state."""

    @abstractmethod
    def run(self, problem: Problem, sides: TrialSides, order: random.Random) -> dict[str, int]:
        """The value of each side, above zero; less is better. Both sides have loaded `problem.weights`."""


@dataclass(frozen=True)
class Suite(ABC):
    """One way of measuring the stack, at one preset's sizes."""

    info: SuiteInfo  # name, unit, effects that count: what web pages know as well
    preset: str
    cases: tuple[Case, ...]
    calls_per_side: int  # timed calls of each side in one pair; 1 for a trial, whose value counts as one
    oracle_checks: int  # how many of them are also compared with the oracle; a trial counts its own
    tolerance: Tolerance
    time_limits: TimeLimits
    memory_bytes: int
    # Where above `calls_per_side`: a pair may have up to so many, as the machine's speed asks; in a guard it has so many.
    most_calls: int = field(default=0, kw_only=True)

    @property
    def name(self) -> str:
        return self.info.name

    @property
    @abstractmethod
    def sample_module(self) -> Path:
        """The file with `prepare`, `build` and `call` that is mounted into the sandbox as `suite_sample.py`."""

    @property
    def sample_helpers(self) -> tuple[Path, ...]:
        """More files that are mounted next to it, under their own names."""
        return ()

    @property
    def has_warm_up(self) -> bool:
        """Whether an untimed turn comes before the first timed one."""
        return True

    @property
    def trial(self) -> Trial | None:
        """Trial that measures a pair, where timed calls do not."""
        return None

    @abstractmethod
    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> Problem:
        """Draw the weights of one pair, whose shape a case has drawn."""

    def part(self, case: str) -> Suite:
        """The suite that a case belongs to: this one, unless the suite is made of others."""
        return self

    def tolerance_of(self, output: str) -> Tolerance:
        """Tolerance of one output."""
        return self.tolerance

    def with_patches_apart(self, patches: int) -> Self:
        """The suite for a pair whose trees are so many patches apart: see `Tolerance.times`."""
        return replace(self, tolerance=self.tolerance.times(patches))

    def describe(self) -> dict[str, Any]:
        """The suite as it is in the evidence."""
        return {
            "name": self.name,
            "preset": self.preset,
            "unit": self.info.unit,
            "cases": [
                {
                    "name": case.name,
                    "calls": self.part(case.name).calls_per_side,
                    "dimensions": {key: list(values) for key, values in case.dimensions.items()},
                }
                for case in self.cases
            ],
            "policy": {
                "oracle_checks": self.oracle_checks,
                "minimum_effect_log_ppm": self.info.minimum_effect_log_ppm,
                "cap_log_ppm": self.info.cap_log_ppm,
                "worst_case_log_ppm": self.info.worst_case_log_ppm,
                "memory_bytes": self.memory_bytes,
                "tolerance": asdict(self.tolerance),
                "time_limits": asdict(self.time_limits),
            },
        }


def sized(info: SuiteInfo, preset: str) -> dict[str, Any]:
    """The fields of a `Suite` that the catalogue has for a preset; raises UnknownSuite."""
    size = info.size(preset)
    return {
        "info": info,
        "preset": preset,
        "cases": size.cases,
        "calls_per_side": size.calls_per_side,
        "most_calls": size.most_calls,
        "time_limits": size.time_limits,
        "memory_bytes": size.memory_bytes,
    }
