"""Suite `time_to_loss`: how long training takes until the model predicts held-out text well enough.

A trial. Both sides get the same batches of one secret language in the same order (their own trainer, optimiser and
schedule: all of it may be patched) and answer for the same fresh held-out sequences after the same numbers of steps.
A side's value is the nanoseconds of all its calls, scoring included so that nothing can be put off into it, until its loss
is at most `target_nano` above that of a bigram table on the same sequences (or below it, where that is negative); between
two scorings it is interpolated.
The bigram takes most of the chance of the draw out of a scoring, and holds for every language that is drawn.

    sizes      `benchmarks/catalogue/training.py`; shapes, the language, its ids and all of its documents are secret
    tolerance  none against base: every way to the target is allowed. Logits must be finite and must not use the future,
               which the deciding scoring and every fourth one prove
    unit       ns until the target; a pair's value is ln(base's / candidate's), the gate's test on the pairs' median
    cap        a side that does not reach the target within the cap of steps has lost quality
    power      a scoring errs by 0.03 nats where the curve falls by 0.003 to 0.01 a step: some per cent per pair where steps
               are taken otherwise, as little as a kernel suite where they are only faster
    time       demo about 10 s a pair on one core, standard about 90 s

Imports numpy, not torch.
"""

import random
from dataclasses import dataclass, field

from benchmarks.catalogue import TIME_TO_LOSS
from benchmarks.catalogue.training import RACES
from benchmarks.suites.base import Problem, Trial, TrialSides, sized
from benchmarks.suites.language import (
    NANO,
    NO_TOLERANCE,
    LanguageProblem,
    LanguageSuite,
    Scoring,
)

PROVEN_SHARE = 4  # one scoring in so many proves causality, in addition to those that decide


@dataclass(frozen=True)
class TimeToLossTrial(Trial):
    """`target_nano` nano-nats above the bigram table (below, if negative), scored every `every` of at most `steps` steps."""

    target_nano: int
    every: int
    steps: int

    def run(self, problem: Problem, sides: TrialSides, order: random.Random) -> dict[str, int]:
        assert isinstance(problem, LanguageProblem)
        race = _Race(problem, sides, self.target_nano)
        running = list(sides.names)
        for step in range(1, self.steps + 1):
            batch = problem.batch(sides.numbers("batch", step))
            for name in order.sample(running, len(running)):
                race.spend(name, sides.call(name, batch, problem.outputs)[1])
            if step % self.every == 0:
                kind = order.choice(("changed first", *["once"] * (PROVEN_SHARE - 1)))
                for name in order.sample(running, len(running)):
                    race.score(name, step, is_changed_first=kind == "changed first")
                running = [name for name in running if name not in race.values]
            if not running:
                return race.values
        raise sides.fail(
            "quality_loss",
            running[0],
            f"the held-out loss was still {race.above_nano(running[0]) / NANO:.3f} nats above a bigram table's after "
            f"{self.steps} steps; the target is {self.target_nano / NANO:.3f}",
        )


@dataclass
class _Race:
    """State of both sides."""

    problem: LanguageProblem
    sides: TrialSides
    target_nano: int
    values: dict[str, int] = field(default_factory=dict)  # of those that are there
    _spent_ns: dict[str, int] = field(default_factory=dict)
    _before: dict[str, tuple[int, int]] = field(default_factory=dict)  # (ns, nano-nats) at the last scoring

    def spend(self, name: str, elapsed_ns: int) -> None:
        self._spent_ns[name] = self._spent_ns.get(name, 0) + elapsed_ns

    def above_nano(self, name: str) -> int:
        return self._before[name][1]

    def score(self, name: str, step: int, *, is_changed_first: bool) -> None:
        """Both sides answer for the same sequences at the same step."""
        ids = self.problem.unseen(self.sides.numbers("held-out", step))
        scoring = Scoring(self.problem, self.sides)
        rng = self.sides.numbers("changed", step)
        if is_changed_first:
            score = scoring.proven(name, ids, rng, is_changed_first=True)
        else:
            score = scoring.once(name, ids)
        self.spend(name, score.elapsed_ns)
        now = self._spent_ns[name], int((score.loss - self.problem.bigram_loss(ids)) * NANO)
        if now[1] <= self.target_nano:
            if not is_changed_first:  # what decides is proven
                scoring.proven(name, ids, rng, is_changed_first=False)
            self.values[name] = reached_ns(self._before.get(name), now, self.target_nano)
        self._before[name] = now


def reached_ns(before: tuple[int, int] | None, now: tuple[int, int], target_nano: int) -> int:
    """Time at which the line between two scorings (ns, nano-nats) crosses the target; whole numbers only."""
    if before is None:
        return now[0]
    ns, above = now[0] - before[0], before[1] - target_nano
    return before[0] + ns * above // (before[1] - now[1])


@dataclass(frozen=True)
class TimeToLoss(LanguageSuite):
    """See the module's docstring."""

    race: TimeToLossTrial

    @property
    def trial(self) -> Trial:
        return self.race


def time_to_loss(preset: str) -> TimeToLoss:
    """The suite at one preset's sizes; raises UnknownSuite."""
    fields, size = sized(TIME_TO_LOSS, preset), RACES[preset]
    trial = TimeToLossTrial(size.target_nano, size.every, size.steps)
    return TimeToLoss(**fields, oracle_checks=0, tolerance=NO_TOLERANCE, race=trial)
