"""What a suite tells the judge: families of secret problems, their exact answers, tolerances and limits.

A suite knows nothing of processes, sandboxes, clocks or verdicts. All its figures are whole numbers (nanoseconds,
bytes, parts per million or per billion), because they go into signed evidence.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogue import SuiteInfo

Array = NDArray[Any]
Tensors = dict[str, Array]


class UnknownSuite(ValueError):
    """No suite, or no preset of the suite, has this name."""


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor must be, exactly."""

    name: str
    dtype: str  # a numpy name: float32, int64 ...
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Case:
    """A declared family of shapes: every dimension is drawn secretly from its choices, anew for each pair.

    A control pair takes the shape of a measured pair beside it, so that base's times can be compared.
    """

    name: str
    dimensions: Mapping[str, tuple[int, ...]]

    def draw(self, rng: np.random.Generator) -> dict[str, int]:
        return {name: int(rng.choice(choices)) for name, choices in self.dimensions.items()}


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may be off. Distances are relative to the root mean square of the right answer."""

    rms_ppb: int  # candidate against base's answer to the same input: root mean square, parts per billion
    peak_ppb: int  # ... and the largest single element
    error_ratio_ppm: int = 1_250_000  # candidate's error against the oracle, as a multiple of base's
    drift_ratio_ppm: int = (
        2_000_000  # ... and of a plain single-precision implementation's, so that gains cannot add up
    )


@dataclass(frozen=True)
class TimeLimits:
    """Wall-clock limits of one side, in milliseconds; what takes longer is a timeout."""

    start_ms: int  # sandbox, interpreter and torch
    load_ms: int  # importing the stack and taking the weights
    call_ms: int  # one call


class Problem(ABC):
    """One pair's secret instance of a case: fixed weights, and any number of fresh inputs."""

    config: dict[str, int | str]  # what the sample-side needs to build the module
    weights: Tensors
    output: TensorSpec
    floor_flops: int  # no right answer can be computed with fewer floating-point operations

    @abstractmethod
    def draw_inputs(self, rng: np.random.Generator) -> Tensors:
        """Fresh inputs for one call."""

    @abstractmethod
    def exact(self, inputs: Tensors) -> Array:
        """The answer in double precision."""

    @abstractmethod
    def plain(self, inputs: Tensors) -> Array:
        """The answer of a plain implementation in the output's own precision."""


@dataclass(frozen=True)
class Suite(ABC):
    """One way of measuring the stack, at one preset's sizes."""

    info: SuiteInfo  # name, unit, effects that count: what web pages know as well
    preset: str
    cases: tuple[Case, ...]
    calls_per_side: int  # timed calls of each side in one pair
    oracle_checks: int  # how many of them are also compared with the oracle
    tolerance: Tolerance
    time_limits: TimeLimits
    memory_bytes: int

    @property
    def name(self) -> str:
        return self.info.name

    @property
    @abstractmethod
    def sample_module(self) -> Path:
        """The file with `prepare`, `build` and `call` that is mounted into the sandbox."""

    @abstractmethod
    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> Problem:
        """Draw the weights of one pair, whose shape a case has drawn."""

    def describe(self) -> dict[str, Any]:
        """The suite as it stands in the evidence."""
        return {
            "name": self.name,
            "preset": self.preset,
            "cases": [
                {
                    "name": case.name,
                    "dimensions": {key: list(values) for key, values in case.dimensions.items()},
                }
                for case in self.cases
            ],
            "policy": {
                "calls_per_side": self.calls_per_side,
                "oracle_checks": self.oracle_checks,
                "minimum_effect_log_ppm": self.info.minimum_effect_log_ppm,
                "cap_log_ppm": self.info.cap_log_ppm,
                "worst_case_log_ppm": self.info.worst_case_log_ppm,
                "memory_bytes": self.memory_bytes,
                "tolerance": asdict(self.tolerance),
                "time_limits": asdict(self.time_limits),
            },
        }
