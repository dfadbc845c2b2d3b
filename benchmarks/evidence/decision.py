"""Decision of a run: samples and events become a verdict. The judge and every verification call this one place.

Pure: the same document gives the same verdict on every machine. In order: events (what a sample did), the checks of
outputs, the statistics of the pairs, and for a gain what would make it unbelievable.
"""

from fractions import Fraction
from typing import Any

from benchmarks.evidence import base_checks, bugs, gains
from benchmarks.evidence.base_checks import BaseState
from benchmarks.evidence.confirmation import Extras, confirmation_units, confirmation_verdict, wanted_extras
from benchmarks.evidence.guard import guard_verdict, wanted_pairs
from benchmarks.evidence.samples import Samples, read_samples, thawed_side
from benchmarks.evidence.schema import validate
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.attempts import pooled_gate
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS
from benchmarks.statistics.gate import LOOKS, GateDecision, GateOutcome, GatePlan
from benchmarks.statistics.units import PPM, floor_ppm, signed_percent

ALPHA_PPM = 1_000

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
    return wanted_extras(document, samples, pairs_left)


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
        return confirmation_verdict(document, samples)
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


def _gate(document: dict[str, Any], samples: Samples) -> Verdict | None:
    log_ratios = gains.units(document, samples)
    earlier, fresh = log_ratios[: samples.earlier_units], log_ratios[samples.earlier_units :]
    decision = pooled_gate([earlier], fresh, gate_plan(document)).decision
    if decision.outcome is GateOutcome.CONTINUE:
        return None
    if unchecked := gains.unchecked(document, decision.look):
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
    if gains.lacks_controls(document, samples, pairs):
        return None
    if doubt := gains.doubt(document, samples):
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


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
