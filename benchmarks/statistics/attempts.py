"""Decision over several attempts of one candidate: their pairs are one sequence, which the gate decides once.

A candidate is one normalised patch against one base tree on one suite and device. Its attempts are pooled: a further
gate run *continues* where the one before ended, so its looks continue at 12, 24, 48, 96 and 144 pairs of all attempts
together. The boundaries do not count early ends for futility or by withdrawal, so the error over any number of
attempts is that of one gate: alpha. A gain or a regression that was found stays found. When the last look is taken the
candidate is exhausted, and a resubmission is answered without measuring.

Different patches are different candidates. Against disguises stand the number of attempts per person, and that a person's
earlier confirmations lower the next bound (`benchmarks.statistics.earlier`); `python -m benchmarks.power` prints what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.statistics.gate import GateDecision, GateOutcome, GatePlan, gate_decision


@dataclass(frozen=True, slots=True)
class PooledDecision:
    """The gate's decision on all attempts. `pairs` counts those of all; `earlier_pairs` those before this attempt."""

    decision: GateDecision
    earlier_pairs: int
    pairs: int
    next_look: int | None

    @property
    def is_open(self) -> bool:
        """True if more pairs could still change the answer: a further attempt would measure some."""
        return (
            self.decision.outcome in (GateOutcome.CONTINUE, GateOutcome.NO_GAIN)
            and self.next_look is not None
        )


def pooled_gate(earlier: Sequence[Sequence[float]], fresh: Sequence[float], plan: GatePlan) -> PooledDecision:
    """Decide on the union: complete pairs of each earlier attempt, oldest first, then those of this one.

    Values are ln(base time / candidate time) in nats, in the order measured; pairs of interrupted and withdrawn
    attempts belong to it. Without fresh pairs it says whether another attempt would be measured at all. Pairs beyond
    the plan's last look are left out.
    """
    before = [value for attempt in earlier for value in attempt]
    union = [*before, *fresh]
    decision = gate_decision(union, plan, earlier_pairs=len(before))
    return PooledDecision(decision, len(before), len(union), plan.next_look(len(union)))
