"""Verdict of a run about a bug: its reproduction must show it on base, and not on the candidate.

Made of the document's trials. One attempt is an observation of a tree, and the check of what was seen in a sandbox that
has no tree. Three attempts of each tree, each in fresh processes, must agree. For a fix the suites must be right as
well: one pair of each case, in which both sides run the candidate, compared with the oracle. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.catalogue import BUG_ATTEMPTS
from benchmarks.evidence.schema import EvidenceError
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.pairs.seats import SIDES

BUG_KINDS = ("reproduction", "fix")
MAX_QUOTED = 600


class Shows(StrEnum):
    """Outcome of one attempt on a tree."""

    BUG = "bug"  # the check refused what was seen, or the tree could not be observed to the end
    NO_BUG = "no_bug"  # the check holds
    NOTHING = "nothing"  # the reproduction itself does not work


@dataclass(frozen=True, slots=True)
class Attempt:
    """Outcome of one attempt, and the text of the trial that decided it."""

    shows: Shows
    detail: str


def bug_verdict(document: dict[str, Any]) -> Verdict | None:
    """Decide a run about a bug; None while a trial or a pair is missing. Raises EvidenceError for trials in an order that no judge makes."""
    is_fix = document["run"]["kind"] == "fix"
    readable, attempts = read_trials(document["trials"])
    if readable is None:
        return None
    if readable:
        return _verdict(
            VerdictKind.BUILD_FAILED,
            f"The reproduction cannot be used: {_quoted(readable)}. Repair the file, then send it in again.",
        )
    base, candidate = attempts["base"], attempts["candidate"]
    if candidate and (not is_fix or not _agree_on(base, Shows.BUG)):
        raise EvidenceError("document.trials tries a candidate although base decided the run")
    if len(base) < BUG_ATTEMPTS:
        return None
    if not _agree_on(base, Shows.BUG):
        return _not_shown(base, is_fix)
    if not is_fix:
        reason = (
            f"Reproduced: the bug shows in {BUG_ATTEMPTS} of {BUG_ATTEMPTS} attempts, each in fresh processes "
            f"({_quoted(base[0].detail)}). A fix is judged with this reproduction."
        )
        return _verdict(VerdictKind.GAIN, reason)
    if len(candidate) < BUG_ATTEMPTS:
        return None
    if not _agree_on(candidate, Shows.NO_BUG):
        return _not_fixed(candidate)
    return _suite_green(document)


def read_trials(trials: list[dict[str, Any]]) -> tuple[str | None, dict[str, list[Attempt]]]:
    """Read the fault of the reproduction as a file (empty: none; None: not read yet), and each side's attempts.

    An attempt whose check is still missing is left out. Raises EvidenceError for any other order than: read; then for
    base, and after it for the candidate, observe and (where there was an answer) check of one attempt after the other.
    """
    attempts: dict[str, list[Attempt]] = {side: [] for side in SIDES}
    if not trials:
        return None, attempts
    first, *rest = trials
    if first["step"] != "read":
        raise EvidenceError("document.trials does not begin with reading the reproduction")
    if first["outcome"] != "readable":
        if rest:
            raise EvidenceError("document.trials continues after a reproduction that cannot be used")
        return first["detail"] or "no reason given", attempts
    waiting: dict[str, Any] | None = None  # an observation whose check comes next
    for trial in rest:
        side, done = trial["side"], attempts.get(trial["side"])
        if done is None or trial["attempt"] != len(done) or len(done) == BUG_ATTEMPTS:
            raise EvidenceError("document.trials has an attempt out of order")
        if side == "base" and attempts["candidate"]:
            raise EvidenceError("document.trials goes back to base")
        is_check = trial["step"] == "check"
        if is_check != (waiting is not None) or (waiting is not None and waiting["side"] != side):
            raise EvidenceError("document.trials has a check without its observation, or none after it")
        waiting = trial if trial["outcome"] == "answered" else None
        if waiting is None:
            done.append(Attempt(_SHOWS[trial["step"], trial["outcome"]], trial["detail"]))
    return "", attempts


_SHOWS = {
    ("observe", "raised"): Shows.BUG,
    ("observe", "crashed"): Shows.BUG,
    ("observe", "timeout"): Shows.BUG,
    ("observe", "resource_limit"): Shows.BUG,
    ("observe", "malformed"): Shows.NOTHING,
    ("check", "holds"): Shows.NO_BUG,
    ("check", "refused"): Shows.BUG,
    ("check", "broken"): Shows.NOTHING,
}


def runs_the_patch(document: dict[str, Any], event: dict[str, Any]) -> bool:
    """Say whether the side that an event names ran the candidate's tree: in a fix's pairs both sides do."""
    return document["run"]["kind"] == "fix" and "pair" in event


def wanted_pairs(document: dict[str, Any]) -> dict[str, int]:
    """Ask for one pair of each case."""
    return {case["name"]: 1 for case in document["suite"]["cases"]}


def _agree_on(attempts: list[Attempt], shows: Shows) -> bool:
    return len(attempts) == BUG_ATTEMPTS and all(attempt.shows is shows for attempt in attempts)


def _not_shown(base: list[Attempt], is_fix: bool) -> Verdict:
    """The reproduction does not show the bug on base in every attempt."""
    if broken := [attempt.detail for attempt in base if attempt.shows is Shows.NOTHING]:
        if is_fix:
            return _verdict(
                VerdictKind.SUSPICIOUS,
                f"The reproduction does not work on the base tree: {_quoted(broken[0])}. A maintainer will check it.",
            )
        return _verdict(
            VerdictKind.BUILD_FAILED,
            f"The reproduction does not work: {_quoted(broken[0])}. `observe` must return plain JSON data, and "
            "`check` must raise AssertionError where they show the bug, without needing the tree. Repair it, then send it in again.",
        )
    shown = sum(attempt.shows is Shows.BUG for attempt in base)
    if shown == 0 and is_fix:
        return _verdict(
            VerdictKind.NO_GAIN,
            "The bug does not show on the base tree any more, so there is nothing to fix there. Fetch the bounty's tree again; "
            "if the bug does not show there either, it is gone.",
        )
    if shown == 0:
        return _verdict(
            VerdictKind.NO_GAIN,
            f"Does not reproduce: the check held in all {BUG_ATTEMPTS} attempts on the bounty's tree. Try it on your "
            "machine with `gainshare bench --kind reproduction`, then send in one that shows the bug.",
        )
    kind = VerdictKind.SUSPICIOUS if is_fix else VerdictKind.NO_GAIN
    advice = (
        "A maintainer will check the reproduction."
        if is_fix
        else "Fix its seeds and orders so that every attempt shows the bug, then send it in again."
    )
    return _verdict(kind, f"Flaky: the bug shows in {shown} of {BUG_ATTEMPTS} attempts on base. {advice}")


def _not_fixed(candidate: list[Attempt]) -> Verdict:
    still = [attempt for attempt in candidate if attempt.shows is not Shows.NO_BUG]
    return _verdict(
        VerdictKind.NO_GAIN,
        f"Not fixed: {len(still)} of {BUG_ATTEMPTS} attempts on the patched tree do not pass ({_quoted(still[0].detail)}). "
        "Try the reproduction on your machine with `gainshare bench --kind fix`.",
    )


def _suite_green(document: dict[str, Any]) -> Verdict | None:
    """Decide a fix whose trials agree; None until every case of the suites has its pair."""
    calls = {case["name"]: 2 * case["calls"] for case in document["suite"]["cases"]}
    complete = [
        pair
        for pair in document["pairs"]
        if not pair["control"] and len(pair["calls"]) == calls[pair["case"]]
    ]
    if {pair["case"] for pair in complete} != set(calls):
        return None
    checks = document["checks"]
    if checks["oracle_checked"] < len(complete) or checks["outputs_checked"] < checks["oracle_checked"]:
        return _verdict(
            VerdictKind.INFRASTRUCTURE_ERROR,
            f"Only {checks['oracle_checked']} answers were compared with the oracle for {len(complete)} pairs. The run "
            "is queued again.",
            len(complete),
        )
    return _verdict(
        VerdictKind.GAIN,
        f"Fixed: the bug shows in {BUG_ATTEMPTS} of {BUG_ATTEMPTS} attempts on base and in none of {BUG_ATTEMPTS} on the patched "
        f"tree, which answers all {len(calls)} cases of the suites correctly. Next, another person reviews the patch.",
        len(complete),
    )


def _verdict(kind: VerdictKind, reason: str, pairs: int = 0) -> Verdict:
    return Verdict(kind, reason, pairs=pairs)


def _quoted(detail: str) -> str:
    """A trial's text within a sentence: its last line, bounded, without its full stop."""
    lines = detail.strip().splitlines()
    return (lines[-1][:MAX_QUOTED] if lines else "no reason given").rstrip(". ")
