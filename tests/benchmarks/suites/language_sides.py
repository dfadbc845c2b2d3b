"""Two sides of a trial within the test's own process, with clocks that the test sets: no sandbox, no noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.pairs.checks import not_finite
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites import Suite
from benchmarks.suites.base import Problem, Tensors, TensorSpec
from tests.benchmarks.suites.suite_pairs import SECRET, as_frames, sample_half

STEP_NS, SCORING_NS = 1_000_000, 400_000


@dataclass
class InProcessSides:
    """`benchmarks.suites.base.TrialSides` over trainers in this process; a call takes what `clocks` say."""

    suite: Suite
    problem: Problem
    clocks: Mapping[str, Callable[[bool], int]] = field(default_factory=dict)
    names: tuple[str, str] = ("candidate", "base")
    steps: dict[str, int] = field(default_factory=lambda: {"base": 0, "candidate": 0})
    asked: list[tuple[str, str]] = field(default_factory=list)
    proofs: int = 0

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.half = sample_half(self.suite)
        config = {**self.problem.config, "device": "cpu"}
        self.states = {name: self.half.build(config, as_frames(self.problem.weights)) for name in self.names}

    @property
    def candidate(self) -> Any:
        return self.states["candidate"][0]

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        is_step = "tokens" in inputs
        self.steps[name] += is_step
        self.asked.append((name, "step" if is_step else "score"))
        raw = self.half.call(self.states[name], as_frames(inputs))
        answers: Tensors = {}
        for spec in outputs:
            dtype, shape, data = raw[spec.name]
            assert (dtype, tuple(shape)) == (spec.dtype, spec.shape)
            answers[spec.name] = np.frombuffer(bytes(data), dtype=spec.dtype).reshape(spec.shape)
            if detail := not_finite(answers[spec.name]):
                raise SideFailed("wrong_output", name, "call", detail)
        clock = self.clocks.get(name, lambda is_step: STEP_NS if is_step else SCORING_NS)
        return answers, clock(is_step)

    def peak_memory_bytes(self, name: str) -> int:
        return 1

    def numbers(self, *label: str | int) -> np.random.Generator:
        return Seeds(SECRET).numbers("trial", *label)

    def checked(self, *, with_oracle: bool) -> None:
        self.proofs += with_oracle

    def fail(self, kind: str, name: str, detail: str) -> SideFailed:
        return SideFailed(kind, name, "call", detail)
