"""Views of a bug for pages: reproductions, shares of the award, and the attempts of a run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import AnonymousUser

from benchmarks.patch.trees import TreeError
from bounty.models import (
    Award,
    AwardRole,
    Bounty,
    Reproduction,
    ReproductionState,
    Run,
    StateChange,
    Submission,
)
from bounty.rewards import bug_shares
from bounty.services.awards.lifecycle import standing_awards
from bounty.services.reproductions import adopted
from bounty.services.trees import blob_store
from gainshare.accounts.models import User

WORDS = {
    "holds": "passes",
    "refused": "shows the bug",
    "broken": "check does not work",
    "raised": "raised an exception",
    "crashed": "crashed",
    "timeout": "ran out of time",
    "resource_limit": "went over a limit",
    "malformed": "did not return plain data",
}
GOOD, BAD, NEITHER = "good", "bad", "warn"
DECLINABLE = (ReproductionState.REPRODUCED, ReproductionState.ADOPTED)


@dataclass(frozen=True, slots=True)
class ReproductionRow:
    """One reproduction on a bug's page. The service checks the permission to decline it again."""

    reproduction: Reproduction
    may_decline: bool
    declined_because: str

    @property
    def action(self) -> str:
        """Name of the form that declines it."""
        return f"decline-{self.reproduction.pk}"


@dataclass(frozen=True, slots=True)
class BugView:
    """A bug bounty's reproductions: `first` is the adopted one, `others` are all others."""

    reproduction_microcredits: int
    fix_microcredits: int
    first: ReproductionRow | None
    text: str
    others: list[ReproductionRow]


def bug_view(bounty: Bounty, viewer: User | AnonymousUser) -> BugView:
    """Reproductions of the bounty as this user may see them."""
    assert bounty.award_microcredits is not None and bounty.reproduction_ppm is not None
    first = adopted(bounty=bounty)
    shares = bug_shares(
        award_microcredits=bounty.award_microcredits,
        reproduction_ppm=bounty.reproduction_ppm,
        is_reproduction_paid=first is None or first.earns,
    )
    rows = reproduction_rows(bounty, viewer)
    return BugView(
        shares.reproduction_microcredits,
        shares.fix_microcredits,
        next((row for row in rows if row.reproduction == first), None),
        _text_of(first) if first is not None else "",
        [row for row in rows if row.reproduction != first],
    )


def reproduction_rows(bounty: Bounty, viewer: User | AnonymousUser) -> list[ReproductionRow]:
    """Every reproduction of the bug in sealed order; a declined one has its reason."""
    found = list(Reproduction.objects.filter(bounty=bounty).select_related("author"))
    changes = StateChange.objects.filter(
        subject="reproduction",
        subject_id__in=[str(one.pk) for one in found],
        new=ReproductionState.DECLINED,
    )
    reasons = dict(changes.values_list("subject_id", "reason"))
    is_maintainer = isinstance(viewer, User) and viewer.is_maintainer
    return [
        ReproductionRow(
            reproduction=one,
            may_decline=is_maintainer and one.state in DECLINABLE and one.author_id != viewer.pk,
            declined_because=reasons.get(str(one.pk), ""),
        )
        for one in found
    ]


def _text_of(reproduction: Reproduction) -> str:
    try:
        return blob_store().get(reproduction.blob).decode("utf-8", "replace")
    except TreeError:
        return "The stored file is damaged and cannot be shown."


def shares_of(submission: Submission) -> list[Award]:
    """Awards of a bug's fix, its author's first; empty for gains."""
    return list(standing_awards(submission).exclude(role__in=[AwardRole.GAIN, AwardRole.SUPPLEMENT]))


@dataclass(slots=True)
class AttemptRow:
    """The attempts on one tree, each as (words, tone, detail)."""

    side: str
    attempts: list[tuple[str, str, str]] = field(default_factory=list)


def trials_of(run: Run) -> list[AttemptRow]:
    """Attempts of a finished run by tree; empty for runs without attempts."""
    verdict = getattr(run, "verdict", None)
    evidence = verdict.evidence if verdict is not None else None
    return attempt_rows(evidence.trials) if evidence is not None else []


def attempt_rows(trials: Iterable[dict[str, Any]]) -> list[AttemptRow]:
    """Attempts from the evidence's rows. An observation that was checked is shown by its check."""
    rows: dict[str, AttemptRow] = {}
    for trial in trials:
        if trial["side"] == "none" or trial["outcome"] == "answered":
            continue
        row = rows.setdefault(trial["side"], AttemptRow(trial["side"]))
        row.attempts.append((WORDS[trial["outcome"]], _tone(trial), trial["detail"]))
    return list(rows.values())


def _tone(trial: dict[str, Any]) -> str:
    """Tone of a result: good if it is what a fix needs, which is the bug on base and no bug on the patched tree."""
    if trial["outcome"] in ("broken", "malformed"):
        return NEITHER
    return GOOD if (trial["outcome"] == "holds") == (trial["side"] == "candidate") else BAD
