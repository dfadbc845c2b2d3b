"""What pages show of a bug: its reproduction, how its award is shared, and the attempts of a run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.trees import TreeError
from bounty.models import Award, AwardRole, Bounty, Reproduction, Run, Submission
from bounty.rewards import bug_shares
from bounty.services.adopted import adopted
from bounty.services.awards import standing_awards
from bounty.services.trees import blob_store

WORDS = {
    "holds": "passes",
    "refused": "shows the bug",
    "broken": "check does not work",
    "raised": "raised an exception",
    "crashed": "crashed",
    "timeout": "ran out of time",
    "resource_limit": "went over a limit",
    "malformed": "returned no plain data",
}
GOOD, BAD, NEITHER = "good", "bad", "warn"


@dataclass(frozen=True, slots=True)
class BugView:
    """A bug's bounty. `first` is its reproduction, `others` are those that are not, or not yet."""

    reproduction_microcredits: int
    fix_microcredits: int
    first: Reproduction | None
    text: str
    others: list[Reproduction]


def bug_view(bounty: Bounty) -> BugView:
    """What the bounty's page shows of its bug."""
    assert bounty.award_microcredits is not None and bounty.reproduction_ppm is not None
    first = adopted(bounty=bounty)
    shares = bug_shares(
        award_microcredits=bounty.award_microcredits,
        reproduction_ppm=bounty.reproduction_ppm,
        is_reproduction_paid=first is None or first.earns,
    )
    others = Reproduction.objects.filter(bounty=bounty).select_related("author")
    if first is not None:
        others = others.exclude(pk=first.pk)
    return BugView(
        shares.reproduction_microcredits,
        shares.fix_microcredits,
        first,
        _text_of(first) if first is not None else "",
        list(others),
    )


def _text_of(reproduction: Reproduction) -> str:
    try:
        return blob_store().get(reproduction.blob).decode("utf-8", "replace")
    except TreeError:
        return "The file is damaged in the store."


def shares_of(submission: Submission) -> list[Award]:
    """A bug's awards that this fix brought, the author's own first; empty for gains."""
    return list(standing_awards(submission).exclude(role=AwardRole.GAIN))


@dataclass(slots=True)
class AttemptRow:
    """The attempts on one tree, each as (words, tone, detail)."""

    side: str
    attempts: list[tuple[str, str, str]] = field(default_factory=list)


def trials_of(run: Run) -> list[AttemptRow]:
    """The run's attempts by tree, once it has its verdict; empty for runs that try nothing."""
    verdict = getattr(run, "verdict", None)
    evidence = verdict.evidence if verdict is not None else None
    return attempt_rows(evidence.trials) if evidence is not None else []


def attempt_rows(trials: Iterable[dict[str, Any]]) -> list[AttemptRow]:
    """The evidence's rows as people read them: an observation that was checked is shown by its check."""
    rows: dict[str, AttemptRow] = {}
    for trial in trials:
        if trial["side"] == "none" or trial["outcome"] == "answered":
            continue
        row = rows.setdefault(trial["side"], AttemptRow(trial["side"]))
        row.attempts.append((WORDS[trial["outcome"]], _tone(trial), trial["detail"]))
    return list(rows.values())


def _tone(trial: dict[str, Any]) -> str:
    """Good is what a fix needs: the bug on base, none on the patched tree."""
    if trial["outcome"] in ("broken", "malformed"):
        return NEITHER
    return GOOD if (trial["outcome"] == "holds") == (trial["side"] == "candidate") else BAD
