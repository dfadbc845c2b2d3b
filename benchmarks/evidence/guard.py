"""Verdict of a guard run: a gain in one suite must not make anything else worse.

One rail per case of the guard suite, one per case for its peak memory, and one for the time to load over all of them,
on top of a second that any process takes to start.
Each is a test of non-inferiority (`benchmarks.statistics.guard`); the first that is violated decides. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from benchmarks.evidence.samples import read_samples
from benchmarks.evidence.schema import SCHEMA, SCHEMA_2, EvidenceError
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.guard import (
    BOUNDARIES,
    BOUNDARIES_2,
    GuardDecision,
    GuardOutcome,
    GuardPlan,
    guard_decision,
)
from benchmarks.statistics.units import PPM, floor_ppm, log_ppb, nats, signed_percent

_BOUNDARIES = {SCHEMA: BOUNDARIES, SCHEMA_2: BOUNDARIES_2}  # the looks, by the document's schema
START_NS = 1_000_000_000
"""What starting any process takes, before it loads: loading takes 15 to 200 ms, whose own ratio would be all noise."""


@dataclass(frozen=True, slots=True)
class Rail:
    """Log ratios ln(base / candidate) in nats, and by how much they may be below zero. `case` None is all cases."""

    name: str
    case: str | None
    values: tuple[float, ...]
    plan: GuardPlan
    is_needed: bool = True

    @property
    def decision(self) -> GuardDecision:
        return guard_decision(self.values, self.plan)


def rails(document: dict[str, Any]) -> Iterator[Rail]:
    """The rails of a validated guard document. Raises EvidenceError where margins are missing."""
    cases, policy = document["suite"]["cases"], document["suite"]["policy"]
    samples = read_samples(document)
    is_changed = document["checks"]["outputs_differing"] > 0
    schema = document["schema"]
    memory, load = (
        _plan(policy, "memory_margin_log_ppm", schema),
        _plan(policy, "load_margin_log_ppm", schema),
    )
    complete = list(samples.complete)
    for case in cases:
        name = case["name"]
        is_needed = is_changed or not case.get("only_if_numerics_changed", False)
        values = tuple(nats(value) for value in samples.by_case[name])
        yield Rail(name, name, values, _plan(case, "margin_log_ppm", schema), is_needed)
        peaks = tuple(_ratio(pair["peak_memory_bytes"]) for pair in complete if pair["case"] == name)
        yield Rail(f"peak memory of {name}", name, peaks, memory, is_needed)
    loads = ({side: ns + START_NS for side, ns in pair["load_ns"].items()} for pair in complete)
    yield Rail("time to load", None, tuple(map(_ratio, loads)), load)


def guard_verdict(document: dict[str, Any]) -> Verdict | None:
    """Decide a guard run; None while a rail needs more pairs. One violated rail is enough."""
    found = [(rail, rail.decision) for rail in rails(document) if rail.is_needed]
    pairs = sum(len(rail.values) for rail, _ in found if rail.case == rail.name)
    violated = [(rail, decision) for rail, decision in found if decision.outcome is GuardOutcome.VIOLATED]
    if violated:
        return _violated(*violated[0], pairs)
    if any(decision.outcome is GuardOutcome.MEASURE_ON for _, decision in found):
        return None
    reason = f"Nothing else became worse: all {len(found)} guard rails hold (other suites, peak memory, time to load)."
    return Verdict(VerdictKind.GAIN, reason, pairs=pairs)


def wanted_pairs(document: dict[str, Any]) -> dict[str, int]:
    """Count the pairs that each case should have before the next decision."""
    wanted = {case["name"]: 0 for case in document["suite"]["cases"]}
    for rail in rails(document):
        if not rail.is_needed or rail.decision.outcome is not GuardOutcome.MEASURE_ON:
            continue
        look = rail.plan.next_look(len(rail.values)) or rail.plan.most_pairs
        if rail.case is not None:
            wanted[rail.case] = max(wanted[rail.case], look)
        else:
            wanted = {case: max(pairs, -(-look // len(wanted))) for case, pairs in wanted.items()}
    return wanted


def _violated(rail: Rail, decision: GuardDecision, pairs: int) -> Verdict:
    assert decision.estimate is not None
    estimate = floor_ppm(decision.estimate)
    allowed = signed_percent(-round(rail.plan.margin_log * PPM))
    what = (
        f"The gain makes something else worse: for {rail.name} the median over {decision.look} pairs is "
        f"{signed_percent(estimate)}"
        if decision.is_proven
        else f"The gain may make something else worse: for {rail.name} {decision.look} pairs could not rule out a larger loss "
        f"than allowed (median {signed_percent(estimate)})"
    )
    kind = VerdictKind.QUALITY_LOSS if rail.name.startswith("quality/") else VerdictKind.REGRESSION
    return Verdict(
        kind,
        f"{what}, and {allowed} is the most that is allowed. Keep the gain without that cost, then submit again.",
        estimate,
        None if decision.bound is None else floor_ppm(decision.bound),
        pairs,
    )


def _plan(holder: dict[str, Any], key: str, schema: str) -> GuardPlan:
    value = holder.get(key)
    if type(value) is not int or value <= 0:
        raise EvidenceError(f"document.suite has no {key}, which a guard run needs")
    return GuardPlan(value / PPM, _BOUNDARIES[schema])


def _ratio(sides: dict[str, int]) -> float:
    if min(sides.values()) <= 0:
        raise EvidenceError("a complete pair has no memory or load time")
    return nats(log_ppb(Fraction(sides["base"], sides["candidate"])))
