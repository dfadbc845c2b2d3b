"""Decision of a run: samples and events become a verdict. The judge and every verification call this one place.

Pure: the same document gives the same verdict on every machine. In order: events (what a sample did), the checks of
outputs, the statistics of the pairs, and for a gain what would make it unbelievable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

from benchmarks.evidence import base_checks, bugs, earlier, old, partner, partner_2
from benchmarks.evidence.base_checks import BaseState
from benchmarks.evidence.guard import guard_verdict, wanted_pairs
from benchmarks.evidence.samples import PPB_PER_PPM, Samples, read_samples, thawed_side
from benchmarks.evidence.schema import SCHEMA, SCHEMA_2, validate
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.attempts import pooled_gate
from benchmarks.statistics.confirm import (
    CONFIRMATION_PAIRS,
    ConfirmationResult,
    repeated_confirmation,
)
from benchmarks.statistics.controls import BLOCK
from benchmarks.statistics.earlier import bound_after
from benchmarks.statistics.gate import LOOKS, GateDecision, GateOutcome, GatePlan
from benchmarks.statistics.median import median
from benchmarks.statistics.old import OldOutcome
from benchmarks.statistics.units import PPM, floor_ppm, nats, signed_percent

ALPHA_PPM = 1_000
_PARTNERS = {SCHEMA: partner, SCHEMA_2: partner_2}  # the rules about control pairs, by the document's schema

_BROKEN = (
    VerdictKind.BUILD_FAILED,
    "The patch did not build or import: {detail}. Read the run's log, then try it with `gainshare bench` on your machine.",
)
_CHEATED = (
    VerdictKind.POLICY_VIOLATION,
    "The patch did something that a patch may not do: {detail}. Only the judge's own clock and the outputs that it checks "
    "count. Remove the code that writes to standard output, changes a clock or makes a verdict, then submit again.",
)
# What a crash means depends on how far the sample had come.
_CRASHES = {
    "start": (
        VerdictKind.INFRASTRUCTURE_ERROR,
        "A sandbox ended before the patch was loaded: {detail}. The run is queued again.",
    ),
    "call": (
        VerdictKind.WRONG_OUTPUT,
        "The patch crashed instead of answering: {detail}. Read the run's log, then try it with `gainshare bench` on your machine.",
    ),
}
_NOT_STARTED = "A sandbox failed before any tree was loaded: {detail}. The run is queued again."
_CANDIDATE_S = {"wrong_output": VerdictKind.WRONG_OUTPUT, "suspicious": VerdictKind.SUSPICIOUS}
_LATE_BUILD = (
    VerdictKind.TIMEOUT,
    "The patch took too long to build: {detail}. Give the compiler less to compute and nothing to wait for, then try it with "
    "`gainshare bench` on your machine.",
)
_MEANINGS = {
    "cancelled": (
        VerdictKind.INFRASTRUCTURE_ERROR,
        "The run was cancelled: {detail}. Submit again to have the patch measured.",
    ),
    "infrastructure_error": (
        VerdictKind.INFRASTRUCTURE_ERROR,
        "The runner failed, not the patch: {detail}. The run is queued again.",
    ),
    "policy_violation": _CHEATED,
    "protocol_violation": _CHEATED,
    "resource_limit": (
        VerdictKind.RESOURCE_LIMIT,
        "The patch went over a limit: {detail}. Use less, or ask a maintainer for a higher limit.",
    ),
    "timeout": (
        VerdictKind.TIMEOUT,
        "The patch did not answer in time: {detail}. Look for an endless loop or a lock, then try it with `gainshare bench` on your "
        "machine.",
    ),
    "build_failed": _BROKEN,
    "quality_loss": (
        VerdictKind.QUALITY_LOSS,
        "The loss on held-out text is worse: {detail}. Keep more precision where it matters, then submit again.",
    ),
}


def make_plan(*, looks: int = len(LOOKS), confirmation_pairs: int = CONFIRMATION_PAIRS) -> dict[str, Any]:
    """The `plan` of a document: `looks` of the standard looks (fewer only for quick local runs)."""
    return {
        "looks": list(LOOKS[:looks]),
        "may_extend": looks == len(LOOKS),
        "alpha_ppm": ALPHA_PPM,
        "confirmation_pairs": confirmation_pairs,
    }


def gate_plan(document: dict[str, Any]) -> GatePlan:
    """The gate's plan as the document states it."""
    plan, policy = document["plan"], document["suite"]["policy"]
    return GatePlan(
        minimum_effect_log=policy["minimum_effect_log_ppm"] / PPM,
        looks=tuple(plan["looks"]),
        alpha=Fraction(plan["alpha_ppm"], PPM),
        may_extend=plan["may_extend"],
    )


def next_pairs(document: dict[str, Any]) -> dict[str, int]:
    """Count the pairs of this run that each case should have before the next decision: up to the next look, or all."""
    kind = document["run"]["kind"]
    if kind == "guard":
        return wanted_pairs(document)
    if kind in bugs.BUG_KINDS:
        return bugs.wanted_pairs(document)
    samples = read_samples(document)
    if kind == "confirmation":
        units = confirmation_units(document, samples)
    else:
        plan = gate_plan(document)
        units = plan.next_look(samples.unit_count) or plan.most_pairs
    return {case: max(0, units - earlier) for case, earlier in samples.earlier.items()}


def confirmation_units(document: dict[str, Any], samples: Samples) -> int:
    """Units that a confirmation has in all: its plan's, and those of each whole confirmation that it continues."""
    pairs = int(document["plan"]["confirmation_pairs"])
    return pairs * (samples.earlier_units // pairs + 1)


@dataclass(frozen=True, slots=True)
class Extras:
    """Pairs in the next block in addition to the measured ones: control pairs, and pairs of base and the old tree."""

    controls: int
    old: int = 0


def next_extras(document: dict[str, Any]) -> Extras:
    """Choose what goes with the next block of measured pairs, or alone where these are there."""
    kind = document["run"]["kind"]
    if kind == "guard" or kind in bugs.BUG_KINDS:
        return Extras(0)
    samples = read_samples(document)
    measured = sum(map(len, samples.by_case.values())) - sum(samples.earlier.values())
    pairs_left = sum(next_pairs(document).values()) - measured
    if kind != "confirmation":
        return Extras(1)
    old_pairs = old.wanted_pairs(document, samples, blocks_left(pairs_left))
    if pairs_left <= 0:
        return Extras(0 if old_pairs else 1, old_pairs)
    return Extras(partner.wanted_controls(document, samples, blocks_left(pairs_left)), old_pairs)


def blocks_left(pairs_left: int) -> int:
    """Blocks of measured pairs that are still to come."""
    return -(-max(0, pairs_left) // BLOCK)


def partner_rules(document: dict[str, Any]) -> ModuleType:
    """The rules about control pairs that the document was signed under."""
    return _PARTNERS[document["schema"]]


def decide_so_far(document: dict[str, Any]) -> Verdict | None:
    """Decide a document without a verdict; None while the run should measure more pairs.

    More means up to `next_pairs` units, or where these are there, a control pair that a gain still needs. Raises
    EvidenceError for a document that is not evidence.
    """
    validate(document, has_verdict=False)
    samples = read_samples(document)
    pairs = samples.unit_count
    if event := base_checks.deciding_event(document):
        return _from_event(document, event, pairs)
    if document["checks"]["failures"]:
        return _wrong_output(str(document["checks"]["failures"][0]), pairs)
    if thawed := thawed_side(document):
        return Verdict(
            VerdictKind.SUSPICIOUS,
            f"The {thawed[1]} used CPU time in pair {thawed[0]} while it was frozen, so the times of that pair cannot be trusted. "
            "A maintainer will check the run.",
            pairs=pairs,
        )
    if document["run"]["kind"] == "guard":
        return guard_verdict(document)
    if document["run"]["kind"] in bugs.BUG_KINDS:
        return bugs.bug_verdict(document)
    if document["run"]["kind"] == "confirmation":
        return _confirmation(document, samples)
    return _gate(document, samples)


def decide(document: dict[str, Any]) -> Verdict:
    """Decide a document, whatever `verdict` it states. Always gives a verdict.

    A run that ended before its figures decided is an infrastructure error: it is measured again.
    """
    bare = {key: value for key, value in document.items() if key != "verdict"}
    verdict = decide_so_far(bare)
    if verdict is not None:
        return verdict
    pairs = read_samples(bare).unit_count
    return Verdict(
        VerdictKind.INFRASTRUCTURE_ERROR,
        f"The run ended after {pairs} pairs, too few for a decision. The run is queued again.",
        pairs=pairs,
    )


def _from_event(document: dict[str, Any], event: dict[str, Any], pairs: int) -> Verdict | None:
    """What the event means; None while base has to be tried again."""
    kind, stage, detail = event["kind"], event.get("stage", ""), event["detail"].strip() or "no detail"
    if base_checks.has_rules(document):
        if base_checks.names_base(document, event):
            return _from_base(document, event, detail, pairs)
        if stage == base_checks.START and kind not in base_checks.NOT_BASE_S_FAULT:
            return Verdict(VerdictKind.INFRASTRUCTURE_ERROR, _NOT_STARTED.format(detail=detail), pairs=pairs)
    elif (
        event.get("side") == "base"
        and not bugs.runs_the_patch(document, event)
        and kind not in base_checks.NOT_BASE_S_FAULT
    ):
        return Verdict(
            VerdictKind.INFRASTRUCTURE_ERROR,
            f"The base tree failed, not the patch ({kind}: {detail}). A maintainer must check the base tree.",
            pairs=pairs,
        )
    if kind == "wrong_output":
        return _wrong_output(detail, pairs)
    if kind == "suspicious":
        return Verdict(
            VerdictKind.SUSPICIOUS, f"{_sentence(detail)} A maintainer will check the run.", pairs=pairs
        )
    verdict_kind, reason = _meaning(kind, stage)
    return Verdict(verdict_kind, reason.format(detail=detail), pairs=pairs)


def _from_base(document: dict[str, Any], event: dict[str, Any], detail: str, pairs: int) -> Verdict | None:
    """Whose failure it was that an event names base, from the attempts at base without the candidate."""
    kind, what = event["kind"], f"{event['kind']}: {detail}"
    failed = VerdictKind.INFRASTRUCTURE_ERROR
    match base_checks.state_of_base(document):
        case BaseState.UNTRIED:
            return None
        case BaseState.FAILS:
            reason = (
                f"The base tree fails on its own, not the patch ({what}): it failed again in {base_checks.ATTEMPTS} "
                "attempts without the patch. A maintainer must repair the base tree; then the run is queued again."
            )
        case BaseState.UNKNOWN:
            reason = f"Base failed ({what}), and the runner could not try it again. The run is queued again."
        case BaseState.WORKS if base_checks.ran_without_the_candidate(document, event):
            reason = (
                f"Base failed once in a pair without the patch ({what}) and worked when it was tried again. The run is "
                "queued again."
            )
        case BaseState.WORKS:
            failed = _CANDIDATE_S.get(kind) or _meaning(kind, event.get("stage", ""))[0]
            reason = (
                f"Base failed next to the patch ({what}) and works next to itself with the same inputs, so this counts as the "
                "patch's failure. Remove what reaches the other process or uses up the machine, then submit again."
            )
    return Verdict(failed, reason, pairs=pairs)


def _meaning(kind: str, stage: str) -> tuple[VerdictKind, str]:
    """Verdict and reason of an event of this kind at this stage; the reason has a place for the event's detail."""
    if kind == "crash":
        return _CRASHES.get(stage, _BROKEN)
    if (kind, stage) == ("timeout", "build"):
        return _LATE_BUILD
    return _MEANINGS[kind]


def _wrong_output(detail: str, pairs: int) -> Verdict:
    return Verdict(
        VerdictKind.WRONG_OUTPUT,
        f"An output is wrong: {detail}. Compare your code with the reference form on random inputs and shapes, then submit "
        "again.",
        pairs=pairs,
    )


def _unchecked(document: dict[str, Any], pairs: int) -> Verdict | None:
    """Find a judge that did not compare every timed output of the candidate, or none with the oracle."""
    earlier = [sealed["document"] for sealed in document.get("continues", [])]
    measured = [*(record["pair"] for record in earlier), *document["pairs"]]
    timed = sum(side == "candidate" for pair in measured for side, _ns in pair["calls"])
    checks = [*(record["checks"] for record in earlier), document["checks"]]
    compared, with_oracle = (
        sum(each[name] for each in checks) for name in ("outputs_checked", "oracle_checked")
    )
    if compared >= timed and with_oracle > 0:
        return None
    return Verdict(
        VerdictKind.INFRASTRUCTURE_ERROR,
        f"Only {compared} of {timed} outputs were checked, {with_oracle} against the oracle, so nothing is decided. "
        "The run is queued again.",
        pairs=pairs,
    )


def _gate(document: dict[str, Any], samples: Samples) -> Verdict | None:
    units = _units(document, samples)
    earlier, fresh = units[: samples.earlier_units], units[samples.earlier_units :]
    decision = pooled_gate([earlier], fresh, gate_plan(document)).decision
    if decision.outcome is GateOutcome.CONTINUE:
        return None
    if unchecked := _unchecked(document, decision.look):
        return unchecked
    assert decision.estimate is not None
    estimate = floor_ppm(decision.estimate)
    bound = None if decision.bound is None else floor_ppm(decision.bound)
    pairs, size = decision.look, signed_percent(estimate)
    if decision.outcome is GateOutcome.REGRESSION:
        reason = (
            f"Slower than base: the median over {pairs} pairs is {size}. Look for the slower part in this run's samples, or "
            "compare both trees with `gainshare bench` on your machine."
        )
        return Verdict(VerdictKind.REGRESSION, reason, estimate, bound, pairs)
    if decision.outcome is GateOutcome.NO_GAIN:
        return Verdict(VerdictKind.NO_GAIN, _no_gain_reason(decision), estimate, bound, pairs)
    if _lacks_controls(document, samples, pairs):
        return None
    if doubt := _doubt(document, samples):
        return Verdict(doubt[0], doubt[1], estimate, bound, pairs)
    reason = (
        f"Faster than base: {size} over {pairs} pairs. Next, a confirmation with new secrets sets the award."
    )
    return Verdict(VerdictKind.GAIN, reason, estimate, bound, pairs)


def _no_gain_reason(decision: GateDecision) -> str:
    assert decision.estimate is not None
    return (
        f"No gain that is large enough: the median over {decision.look} pairs is "
        f"{signed_percent(floor_ppm(decision.estimate))}. A gain must be {signed_percent(floor_ppm(decision.minimum_effect))} "
        "at least, and clearer than chance. Find a larger effect; `gainshare bench` measures pairs on your machine."
    )


def _confirmation(document: dict[str, Any], samples: Samples) -> Verdict | None:
    wanted = confirmation_units(document, samples)
    units = _units(document, samples)
    if len(units) < wanted:
        return None
    if unchecked := _unchecked(document, wanted):
        return unchecked
    usual = confirmed(units[:wanted], document["plan"]["confirmation_pairs"])
    found = bound_after(usual, units[:wanted], earlier.stated(document))
    result, confidence, why = found.result, earlier.confidence(found), earlier.said(document, found)
    estimate, bound = result.estimate_log_ppm, result.bound_log_ppm
    if not result.is_gain:
        reason = (
            f"Not confirmed: over {wanted} new pairs the median is {signed_percent(estimate)}, and its {confidence} lower bound "
            f"is {signed_percent(bound)}, not above zero.{why} Find a larger effect and submit again."
        )
        return Verdict(VerdictKind.NO_GAIN, reason, estimate, bound, wanted)
    if _lacks_controls(document, samples, wanted):
        return None
    before = old.decision(document, samples)
    if before is not None and before.outcome is OldOutcome.MEASURE_ON:
        return None
    if doubt := _doubt(document, samples):
        return Verdict(doubt[0], doubt[1], estimate, bound, wanted)
    rules = partner_rules(document)
    cut, said = rules.cut_log_ppm(document, samples), why + rules.said(document, samples, bound)
    estimate, bound = estimate - cut, bound - cut
    if before is not None and before.outcome is OldOutcome.SLOW:
        price = old.price_log_ppm(before, bound)
        reason = old.doubt(document, before, price)
        return Verdict(VerdictKind.SUSPICIOUS, reason, estimate + price - bound, price, wanted)
    said += old.said(document)
    if bound <= 0:
        reason = (
            f"Not confirmed: nothing is left of the gain.{said} Find out what the patch does to the process next to it, or find "
            "a larger effect, and submit again."
        )
        return Verdict(VerdictKind.NO_GAIN, reason, estimate, bound, wanted)
    reason = (
        f"Confirmed: {signed_percent(bound)} at least, with {confidence} confidence ({wanted} new pairs, median "
        f"{signed_percent(estimate)}).{said} This bound sets the award. Next, another person reviews the patch."
    )
    return Verdict(VerdictKind.GAIN, reason, estimate, bound, wanted)


def confirmed(units: Sequence[float], pairs: int) -> ConfirmationResult:
    """The bound over all confirmations of one candidate, `pairs` units each, in the order measured."""
    return repeated_confirmation([units[start : start + pairs] for start in range(0, len(units), pairs)])


def _units(document: dict[str, Any], samples: Samples) -> list[float]:
    return samples.units(document["suite"]["policy"]["cap_log_ppm"] * PPB_PER_PPM)


def _lacks_controls(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether a gain needs more control pairs. In an A/A run every pair is one."""
    if document["run"]["kind"] == "aa":
        return False
    return bool(partner_rules(document).lacks_controls(document, samples, units))


def _doubt(document: dict[str, Any], samples: Samples) -> tuple[VerdictKind, str] | None:
    """Find what contradicts a measured gain: one bad case, the cap, the control pairs."""
    policy = document["suite"]["policy"]
    for case, values in sorted(samples.by_case.items()):
        middle = floor_ppm(median(list(map(nats, values))))
        if middle < policy["worst_case_log_ppm"]:
            return VerdictKind.NO_GAIN, (
                f"Faster on the whole, but case {case} is at {signed_percent(middle)}, and no case may be below "
                f"{signed_percent(policy['worst_case_log_ppm'])}. Make that case faster, then submit again."
            )
        if middle >= policy["cap_log_ppm"]:
            return VerdictKind.SUSPICIOUS, (
                f"Case {case} is at {signed_percent(middle)}, at or above the suite's cap of "
                f"{signed_percent(policy['cap_log_ppm'])}. A maintainer will check how the patch does it."
            )
    if document["run"]["kind"] == "aa":
        return None
    reason = partner_rules(document).doubt(document, samples)
    return None if reason is None else (VerdictKind.SUSPICIOUS, reason)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
