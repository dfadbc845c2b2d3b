"""Suite `quality`: how well a model predicts held-out text after training for the same time.

A trial. Base takes a fixed number of steps on batches of one secret language; the candidate gets as many as fit into the
time that base's took, call by call in turns with it. Then both answer for the same fresh held-out sequences. A side's value is
its loss in nano-nats per id, computed by the judge in double precision. All of the trainer may be patched, numerics
included: where another suite's candidate changes numerics, this suite is its guard.

    sizes      `benchmarks/catalogue/training.py`; shapes, the language, its ids and all of its documents are secret
    tolerance  none against base. Every batch is scored twice, once with its future changed, in a random order: logits of
               the common past may not move by more than 0.5 % of their size. Scoring may take 1.5 times base's time: what
               takes longer may be training
    unit       nano-nats per id; a pair's value is ln(base's / candidate's), the gate's test on the pairs' median
    cap        a loss that is even lower may come from memorised answers
    power      identical code differs by as many steps as the clock's noise is worth, one in a hundred or two; near the end
               of base's steps the loss falls by 0.1 to 0.2 % a step
    time       demo about 10 s a pair on one core, standard about 90 s

Imports numpy, not torch.
"""

import random
from dataclasses import dataclass, field

import numpy as np

from benchmarks.catalogue import QUALITY
from benchmarks.catalogue.training import EQUAL_TIMES
from benchmarks.pairs.seats import SIDES
from benchmarks.suites.base import Problem, Trial, TrialSides, sized
from benchmarks.suites.language import (
    NANO,
    NO_TOLERANCE,
    LanguageProblem,
    LanguageSuite,
    Score,
    Scoring,
)

BASE, CANDIDATE = SIDES
SCORING_PPM = 1_500_000  # of base's time
SCORING_SLACK_NS = 20_000_000  # per batch: noise of short calls


@dataclass(frozen=True)
class QualityTrial(Trial):
    """Base takes `steps` steps; then `batches` held-out batches are scored."""

    steps: int
    batches: int

    def run(self, problem: Problem, sides: TrialSides, order: random.Random) -> dict[str, int]:
        assert isinstance(problem, LanguageProblem)
        self._train(problem, sides)
        scores: dict[str, list[Score]] = {name: [] for name in SIDES}
        for number in range(self.batches):
            ids = problem.unseen(sides.numbers("held-out", number))
            is_changed_first = order.random() < 0.5
            for name in order.sample(SIDES, 2):
                rng = sides.numbers("changed", number)
                score = Scoring(problem, sides).proven(name, ids, rng, is_changed_first=is_changed_first)
                scores[name].append(score)
        self._refuse_slow_scoring(scores, sides)
        return {name: nano_nats(scores[name]) for name in SIDES}

    def _train(self, problem: LanguageProblem, sides: TrialSides) -> None:
        """The candidate never has more than base's time, to half of one of its steps."""
        clocks = {name: _Clock() for name in SIDES}
        base, candidate = clocks[BASE], clocks[CANDIDATE]

        def step(name: str) -> None:
            clock = clocks[name]
            batch = problem.batch(sides.numbers("batch", clock.steps))
            clock.take(sides.call(name, batch, problem.outputs)[1])

        for _ in range(self.steps):
            step(BASE)
            while candidate.spent_ns + candidate.usual_ns // 2 <= base.spent_ns:
                step(CANDIDATE)

    def _refuse_slow_scoring(self, scores: dict[str, list[Score]], sides: TrialSides) -> None:
        taken = {name: sum(score.elapsed_ns for score in scores[name]) for name in SIDES}
        allowed = taken[BASE] * SCORING_PPM // 1_000_000 + SCORING_SLACK_NS * self.batches
        if taken[CANDIDATE] > allowed:
            raise sides.fail(
                "suspicious",
                CANDIDATE,
                f"scoring took {taken[CANDIDATE]} ns, base's {taken[BASE]} ns: more than {allowed} ns may be training "
                "that continued while it was scored",
            )


@dataclass
class _Clock:
    """One side's time in training."""

    spent_ns: int = 0
    steps: int = 0
    _all_ns: list[int] = field(default_factory=list)

    def take(self, elapsed_ns: int) -> None:
        self.spent_ns += elapsed_ns
        self.steps += 1
        self._all_ns.append(elapsed_ns)

    @property
    def usual_ns(self) -> int:
        """Expected time of the next step, by the last ones; 0 before the first."""
        return int(np.median(self._all_ns[-9:])) if self._all_ns else 0


def nano_nats(scores: list[Score]) -> int:
    """Mean over all batches, at least 1: a value is above zero."""
    return max(1, int(np.mean([score.loss for score in scores]) * NANO))


@dataclass(frozen=True)
class Quality(LanguageSuite):
    """See the module's docstring."""

    training: QualityTrial

    @property
    def trial(self) -> Trial:
        return self.training


def quality(preset: str) -> Quality:
    """The suite at one preset's sizes; raises UnknownSuite."""
    fields, size = sized(QUALITY, preset), EQUAL_TIMES[preset]
    trial = QualityTrial(size.steps, size.batches)
    return Quality(**fields, oracle_checks=0, tolerance=NO_TOLERANCE, training=trial)
