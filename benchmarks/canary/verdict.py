"""The verdict of a canary, recomputed from its document's samples and events. Pure.

Read docs/reference/canary.md for the rules. A document comes from a host that may lie about its figures, but not about
what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.canary.lines import (
    CANDIDATE,
    PARTNER,
    batch_times,
    line_bounds,
    looks,
    prefill_times,
    round_ratios,
    whole_pairs,
    worse_lines,
    worse_words,
)
from benchmarks.canary.order import LINES, ROUNDS
from benchmarks.canary.results import BatchTime, CanaryVerdict, LineResult, PrefillTime
from benchmarks.canary.schema import SCHEMA_1, validate
from benchmarks.statistics.confirm import LEAST_PAIRS

__all__ = ["BatchTime", "CanaryVerdict", "LineResult", "PrefillTime", "decide"]

SERVED, BEST = "served", "best"
FROZEN_NS = 20_000_000  # two ticks of the clock that counts CPU time where nothing better does; or 2 % of the clocked time
COUNTED_SHARE = 20  # counters and clock may differ by one part in so many,
COUNTED_SLACK_MS = 25  # and by so much of each request for each: one core writes to all of them in turn
LEAST_HELD_OUT = 200  # tokens
LEAK = "leak"
EVENT_WORDS = {
    LEAK: "it leaks one account's prompt",
    "crash": "its node ended or broke a connection",
    "timeout": "its node did not answer in time",
    "malformed": "its node gave an answer that no node gives",
    "too_large": "its node gave more than can be searched",
    "resource_limit": "its node reached a limit of its sandbox",
    "unsteerable": "its node could not be frozen or ended",
}


def decide(document: dict[str, Any]) -> CanaryVerdict:
    """The verdict: refused for the first reason that holds, else passed. Raises EvidenceError for another shape."""
    validate(document, has_verdict="verdict" in document)
    comparisons = {one["against"]: one for one in document["comparisons"]}
    why = _why_refused(document, comparisons)
    order = document["order"]
    lines = {name: _lines(one, order["plan"]) for name, one in comparisons.items()}
    served = comparisons.get(SERVED)
    is_whole = served is not None and _too_few(served, order["plan"]) is None
    has_lengths = document["schema"] != SCHEMA_1
    best = lines.get(SERVED, {}) if order["best"] == order["served"] else lines.get(BEST, {})
    return CanaryVerdict(
        passed=why is None,
        why=why or _why_passed(lines[SERVED], order["plan"]["quality_margin_ppm"]),
        served=lines.get(SERVED, {}),
        best=best,
        batch_times=batch_times(served, order["plan"]["batches"]) if served and is_whole else (),
        prefill_times=prefill_times(served) if served and is_whole and has_lengths else (),
    )


def _why_refused(document: dict[str, Any], comparisons: dict[str, dict[str, Any]]) -> str | None:
    order = document["order"]
    batches = order["plan"]["batches"]
    wanted = [SERVED] if order["best"] == order["served"] else [SERVED, BEST]
    found = [comparisons[name] for name in wanted if name in comparisons]
    reasons = [
        *_tree_reasons(order, document["trees"]),
        *_event_reasons(document["events"]),
        *(reason for one in found for reason in _frozen_reasons(one)),
        *(reason for one in found for reason in different_reasons(one, order["plan"])),
        *repeated_reasons(comparisons),
    ]
    if reasons:
        return reasons[0]
    for name in wanted:
        one = comparisons.get(name)
        if one is None:
            return f"it was not timed against the {name} tree: run the canary again"
        if few := _too_few(one, order["plan"]):
            return f"against the {name} tree {few}: run the canary again"
    if lost := _lost_reason(comparisons[SERVED], order["plan"]["quality_margin_ppm"]):
        return lost
    for one in found:
        if counted := counted_reason(one):
            return counted
    # What is slower than the best tree is no reason against what is not slower than the served one.
    return _worse_reason(comparisons[SERVED], batches)


def looks_worse(comparison: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether a first look finds a line worse than it may be, so that it is measured once more; never by too few values."""
    return _too_few(comparison, plan) is None and bool(worse_lines(comparison, plan["batches"]))


def _worse_reason(comparison: dict[str, Any], batches: list[int]) -> str | None:
    slower = worse_lines(comparison, batches)
    if not slower:
        return None
    again = " when measured once more" if len(looks(comparison)) > 1 else ""
    return f"worse than the tree that is served now{again}, {worse_words(*next(iter(slower.items())))}"


def _tree_reasons(order: dict[str, Any], ran: dict[str, str]) -> Iterator[str]:
    """What ran is what was ordered; the installed tree is ordered without a hash, and then only its host knows it."""
    for name in (SERVED, CANDIDATE, BEST):
        if order[name] not in ("", ran[name]):
            yield f"the host clocked the tree {ran[name][:12]} as the {name} one, not {order[name][:12]}: run the canary again"


def _event_reasons(events: list[dict[str, str]]) -> Iterator[str]:
    """A leak first: it is the gravest."""
    for event in sorted(events, key=lambda one: one["kind"] != LEAK):
        yield f"{EVENT_WORDS[event['kind']]} ({event['stage']}): {event['detail']}"


def _frozen_reasons(comparison: dict[str, Any]) -> Iterator[str]:
    for one in comparison["rounds"]:
        limit = max(FROZEN_NS, one["timed_ns"] // 50)
        for side in (CANDIDATE, PARTNER):
            if one["cpu_while_frozen_ns"][side] > limit:
                whose = "its node" if side == CANDIDATE else "the other tree's node"
                used = one["cpu_while_frozen_ns"][side] // 1_000_000
                yield f"{whose} used {used} ms of processor time while it was frozen, in round {one['number']}"


def different_reasons(comparison: dict[str, Any], plan: dict[str, Any]) -> Iterator[str]:
    """Answers against the served tree must be equal, unless the gain was judged by the quality route."""
    if comparison["against"] != SERVED or plan["quality_margin_ppm"] is not None:
        return
    for one in comparison["rounds"]:
        for call in one["calls"]:
            ours, theirs = call["answers"][CANDIDATE], call["answers"][PARTNER]
            wrong = sum(mine != other for mine, other in zip(ours, theirs, strict=True))
            if wrong:
                yield (
                    f"it answers differently from the tree that is served now: {wrong} of {call['batch']} answers at "
                    f"once ({call['case']}, round {one['number']}), under greedy decoding"
                )


def repeated_reasons(comparisons: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Against the best tree it gets the same requests in fresh processes, and must give the answers that it gave before."""
    if SERVED not in comparisons or BEST not in comparisons:
        return
    for before, after in zip(comparisons[SERVED]["rounds"], comparisons[BEST]["rounds"], strict=False):
        for first, second in zip(before["calls"], after["calls"], strict=False):
            if first["answers"][CANDIDATE] != second["answers"][CANDIDATE]:
                yield (
                    f"asked the same once more, it answered differently ({first['case']}, round {before['number']}), "
                    "under greedy decoding"
                )


def _lost_reason(comparison: dict[str, Any], margin_ppm: int | None) -> str | None:
    """Held-out loss against the served tree, of a gain that may change answers."""
    if margin_ppm is None:
        return None
    tokens = sum(one["held_out_tokens"] for one in comparison["rounds"])
    if tokens < LEAST_HELD_OUT:
        return f"the loss of {tokens} held-out tokens is known, {LEAST_HELD_OUT} are needed: run the canary again"
    lost = {
        side: sum(one["loss_micro_nats"][side] for one in comparison["rounds"])
        for side in (CANDIDATE, PARTNER)
    }
    if lost[CANDIDATE] * 1_000_000 <= lost[PARTNER] * (1_000_000 + margin_ppm):
        return None
    mean = {side: lost[side] // tokens for side in lost}
    return (
        f"its held-out loss is {mean[CANDIDATE]} millionths of a nat a token, the served tree's {mean[PARTNER]}: it may "
        f"grow by {margin_ppm} millionths of that"
    )


def _too_few(comparison: dict[str, Any], plan: dict[str, Any]) -> str | None:
    """Every pair of the plan is needed in each look: no one chooses among them."""
    batches = plan["batches"]
    for look in looks(comparison):
        pairs, rounds = whole_pairs(look, batches), len(round_ratios(look, "load_ns"))
        if pairs < max(LEAST_PAIRS, plan["pairs"]):
            return f"too few pairs were clocked, {pairs}: {max(LEAST_PAIRS, plan['pairs'])} are needed"
        if rounds < ROUNDS:
            return f"too few rounds were clocked, {rounds}: {ROUNDS} are needed"
    cases = {(call["case"], call["batch"]) for one in comparison["rounds"] for call in one["calls"]}
    if not {("planted", 1), ("probe", 1), *(("mixed", batch) for batch in batches)} <= cases:
        return "not every kind of request was compared"
    return None


def counted_reason(comparison: dict[str, Any]) -> str | None:
    """Counters and clock of one request, from sent to last byte: medians by case and batch.

    What keeps both nodes' answers from the clock, as a busy machine, is no fault of the candidate's.
    """
    kinds = {
        (call["case"], call["batch"]) for one in comparison["rounds"] for call in one["calls"] if call["ns"]
    }
    for case, batch in sorted(kinds):
        gaps = {side: _gap(comparison, case, batch, side) for side in (CANDIDATE, PARTNER)}
        gap, clocked, counted = gaps[CANDIDATE]
        allowed = clocked // COUNTED_SHARE + COUNTED_SLACK_MS * batch * batch
        if gap > allowed + gaps[PARTNER][0]:
            return (
                f"its counters say {counted} ms where the clock says {clocked} ms ({case}, {batch} at once, sum of the "
                "requests, median): they must agree within 5 %"
            )
    return None


def _gap(comparison: dict[str, Any], case: str, batch: int, side: str) -> tuple[int, int, int]:
    """Difference, clock and counters in milliseconds."""
    calls = [
        call
        for one in comparison["rounds"]
        for call in one["calls"]
        if call["ns"] and (call["case"], call["batch"]) == (case, batch)
    ]
    clocked = _middle([call["clocked_ms"][side] for call in calls])
    counted = _middle([call["counted_ms"][side] for call in calls])
    return abs(clocked - counted), clocked, counted


def _middle(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


def _lines(comparison: dict[str, Any], plan: dict[str, Any]) -> dict[str, LineResult]:
    """The lines, where they have bounds; none of a canary that ended early."""
    if _too_few(comparison, plan) is not None:
        return {}
    bounds = line_bounds(comparison, plan["batches"])
    return {name: bounds[name].result for name in LINES}


def _why_passed(lines: dict[str, LineResult], margin_ppm: int | None) -> str:
    """Passed, with the lines that are certainly cheaper."""
    gains = [name for name in LINES if lines[name].bound_log_ppm > 0]
    answers = "answers are equal" if margin_ppm is None else "held-out loss is within its margin"
    if not gains:
        return f"no change: {answers}, and no line is certainly cheaper or worse than allowed"
    return f"{answers}, no line is worse than allowed, and certainly cheaper: {', '.join(gains)}"
