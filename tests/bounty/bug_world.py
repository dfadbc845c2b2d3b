"""A world with a bounty for a bug: Ann reproduces it, Bob fixes it. Evidence is sealed over invented trials."""

from typing import Any
from uuid import uuid4

from benchmarks.evidence.document import seal
from bounty.models import Bounty, Reproduction, Run, RunKind, Submission
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_awards
from bounty.services.bounties import add_funds
from bounty.services.merges import merge
from bounty.services.reproductions import reproduce, settle
from bounty.services.reviews import review
from gainshare.accounts.models import User
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import invented_document

AWARD = 10_000_001  # odd: shares of it have a remainder
TEXT = "def observe():\n    return {}\n\n\ndef check(seen):\n    assert seen\n"
SHARE = AWARD * 3 // 10  # of the reproduction
REST = AWARD - SHARE
FIX = diff_of_line(3, "step_3 = 33")
OTHER_FIX = diff_of_line(3, "step_3 = 34")


def attempts(side: str, outcome: str) -> list[dict[str, Any]]:
    """Three attempts on one tree with the same result."""
    rows = []
    for number in range(3):
        rows.append(
            {"step": "observe", "side": side, "attempt": number, "outcome": "answered", "detail": "2 bytes"}
        )
        rows.append(
            {"step": "check", "side": side, "attempt": number, "outcome": outcome, "detail": "off by 2"}
        )
    return rows


def trials_of(kind: str, *, base: str, candidate: str) -> list[dict[str, Any]]:
    """Rows of a run with these results on base and on the candidate."""
    read = {"step": "read", "side": "none", "attempt": 0, "outcome": "readable", "detail": ""}
    rows = [read, *attempts("base", base)]
    return rows + attempts("candidate", candidate) if kind == "fix" and base == "refused" else rows


def broken_invariants() -> list[str]:
    return [invariant.name for invariant in audit() if not invariant.holds]


def amounts(submission: Any) -> dict[str, tuple[str, int | None]]:
    return {award.role: (award.state, award.amount_microcredits) for award in standing_awards(submission)}


class BugWorld(World):
    """`bug` pays `AWARD`, three tenths of it to the reproduction unless told otherwise."""

    bug: Bounty

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bug = self.open_bug()

    def open_bug(self, **terms: Any) -> Bounty:
        asked = {
            "title": "Positions are wrong in batches",
            "suite": "bug",
            "preset": "standard",
            "escrow_microcredits": AWARD,
            "rate_microcredits_per_nat": 0,
            "severity": "high",
            "award_microcredits": AWARD,
        }
        return self.open(**{**asked, **terms})

    def try_out(self, *, base: str = "refused", candidate: str = "holds", **how: Any) -> Run:
        """Lease the next run of a bug and post evidence with these results."""
        run = self.lease()
        assert run.kind in (RunKind.REPRODUCTION, RunKind.FIX) and run.reproduction is not None
        self.commit(run)
        trials = trials_of(run.kind, base=base, candidate=candidate)
        units = 1 if run.kind == RunKind.FIX and trials[-1]["outcome"] == "holds" and base == "refused" else 0
        document = invented_document(
            run=job_of(run),
            speed_up_log=0.0,
            units=units,
            trials=trials,
            reproduction=run.reproduction.blob,
            **how,
        )
        self.record(run, seal(document, self.key))
        return run

    def reproduce(self, who: User, text: str = TEXT, bounty: Bounty | None = None) -> Reproduction:
        return reproduce(actor=who, bounty_id=(bounty or self.bug).pk, text=text)

    def adopted(
        self, who: User | None = None, text: str = TEXT, bounty: Bounty | None = None
    ) -> Reproduction:
        """Submit and run a reproduction that the bounty adopts."""
        made = self.reproduce(who or self.ann, text, bounty)
        self.try_out()
        return settle(reproduction_id=made.pk)

    def fix(self, who: User | None = None, diff: str = FIX, **outcomes: Any) -> Submission:
        """Submit a fix and judge it."""
        submission = self.submit(who or self.bob, diff, self.bug)
        self.try_out(**outcomes)
        return advance_submission(submission_id=submission.pk)

    def paid(self, submission: Submission) -> Submission:
        """Have Ruth accept the fix and Mira merge it."""
        review(actor=self.ruth, submission_id=submission.pk, decision="accept")
        return merge(actor=self.mira, submission_id=submission.pk)

    def two_fixes(self) -> tuple[Submission, Submission]:
        """Submit two passing fixes of one bug, Bob's before Ann's."""
        self.add_more()
        self.adopted()
        first, second = self.submit(self.bob, FIX, self.bug), self.submit(self.ann, OTHER_FIX, self.bug)
        for each in (first, second):
            self.try_out()
            advance_submission(submission_id=each.pk)
        second.refresh_from_db()
        return first, second

    def add_more(self) -> None:
        """Add escrow for more than one award, so that money is not what stops a second fix."""
        add_funds(actor=self.mira, bounty_id=self.bug.pk, transfer_id=uuid4(), amount_microcredits=5 * AWARD)
