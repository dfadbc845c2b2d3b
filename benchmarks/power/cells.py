"""Simulated submissions: one kind of noise at one size, through the gate and the confirmation. Seeded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.catalogue import MOE_FORWARD
from benchmarks.judging.noise_models import MODELS, Model, Noise, gaussian, process_bias
from benchmarks.power.batch import GAIN, Counts, Flags, Gated, Values, confirm, gate
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS
from benchmarks.statistics.earlier import LATER_ERROR
from benchmarks.statistics.gate import GatePlan

CHUNK = 10_000
SIZES = (0.01, 0.02)
BIAS = 0.005
RESERVE = 1.25  # what is set aside when the gate passes, over its estimate; an award is at most that
PLAN = GatePlan(minimum_effect_log=MOE_FORWARD.minimum_effect_log_ppm / 1e6)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of noise at one size: `sd` of a pair's log ratio, `offset` in all pairs of a run alike."""

    name: str
    model: Model
    sd: float
    offset: float = 0.0
    layout: float = 0.0  # sd of each process' own bias

    def draw(self, rng: np.random.Generator, runs: int, pairs: int, effect: float = 0.0) -> Noise:
        """Log ratios [runs, pairs] in nats for a true effect of ln(1 + effect)."""
        values = self.sd * self.model(rng, runs, pairs) + math.log1p(effect) + self.offset
        return values + process_bias(rng, runs, pairs, self.layout) if self.layout else values


def noise_cells() -> list[Cell]:
    """Every kind of noise at every size."""
    return [Cell(f"{name}, sd {sd:.0%}", model, sd) for name, model in MODELS.items() for sd in SIZES]


def null_cells() -> list[Cell]:
    """Noise of patches without effect."""
    cells = noise_cells()
    for sd in SIZES:
        cells.append(Cell(f"own bias of each process {BIAS:.1%}, sd {sd:.0%}", gaussian, sd, layout=BIAS))
        cells.append(
            Cell(f"lucky build +{BIAS:.1%} in all pairs, sd {sd:.0%}", gaussian, sd, offset=BIAS * 0.99)
        )
    return cells


@dataclass(frozen=True, slots=True)
class Submissions:
    """Per simulated submission: the gate's answer and what the confirmation's bound pays, in nats; 0 for nothing."""

    outcome: Counts
    look: Counts
    paid: Values
    bound: Values  # the confirmation's, below zero where nothing passed
    strict: (
        Values  # the bound after earlier confirmations of the same person, below zero where nothing passed
    )
    reserve: Values  # the most that is paid

    def paid_after(self, cut: Values, suspicious: Flags) -> Values:
        """What is paid where the bound is cut, and nothing where a maintainer stops it."""
        left = np.minimum(np.maximum(self.bound - cut, 0.0), self.reserve)
        paid: Values = np.where(suspicious, 0.0, left)
        return paid

    @property
    def passed(self) -> Flags:
        passed: Flags = self.outcome == GAIN
        return passed

    @property
    def awarded(self) -> Flags:
        return self.paid > 0


def submissions(
    cell: Cell, runs: int, seed: int, effect: float = 0.0, *, is_continued: bool = False
) -> Submissions:
    """`runs` submissions of a true effect of ln(1 + effect), each judged to the end.

    With `is_continued` each is resubmitted, and pooled, until it passes or its looks are used up.
    """
    rng = np.random.default_rng(seed)
    parts = [_judged(rng, cell, count, effect, is_continued) for count in _chunks(runs)]
    gated = [part[0] for part in parts]
    bound = np.concatenate([part[1] for part in parts])
    reserve = RESERVE * np.concatenate([each.estimate for each in gated])
    return Submissions(
        np.concatenate([each.outcome for each in gated]),
        np.concatenate([each.look for each in gated]),
        np.minimum(np.maximum(bound, 0.0), np.maximum(reserve, 0.0)),
        bound,
        np.concatenate([part[2] for part in parts]),
        reserve,
    )


def _judged(
    rng: np.random.Generator, cell: Cell, runs: int, effect: float, is_continued: bool
) -> tuple[Gated, Values, Values]:
    gated = gate(cell.draw(rng, runs, PLAN.most_pairs, effect), PLAN, is_continued=is_continued)
    bound, strict = np.full(runs, -1.0), np.full(runs, -1.0)
    if winners := int(gated.passed.sum()):
        fresh = cell.draw(rng, winners, CONFIRMATION_PAIRS, effect)
        bound[gated.passed], strict[gated.passed] = confirm(fresh), confirm(fresh, LATER_ERROR)
    return gated, bound, strict


def _chunks(runs: int) -> Iterator[int]:
    for start in range(0, runs, CHUNK):
        yield min(CHUNK, runs - start)
