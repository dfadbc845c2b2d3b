"""Submissions that are nearly equal to another person's: noted when the later one is sealed, for as long as both last.

Nobody is called a copier for it. A price counts only what a patch adds to a nearly equal one that has its award, in any
series of the lineage (`bounty.services.series.comparisons`).
"""

from dataclasses import dataclass

from django.db.models import Q, QuerySet

from benchmarks.patch.trees import Tree
from bounty.likeness import NEARLY_EQUAL_PERCENT, changed_lines, percent_equal
from bounty.models import Award, AwardRole, ChangedLines, Likeness, Submission, SubmissionState
from bounty.services.series.best import STANDING
from bounty.services.trees import blob_store

ENDED = (
    SubmissionState.REJECTED,
    SubmissionState.WITHDRAWN,
    SubmissionState.DECLINED,
    SubmissionState.REVERSED,
)


@dataclass(frozen=True, slots=True)
class NearlyEqual:
    """Another person's submission whose award came first, and how much of the smaller change is the same."""

    submission: Submission
    percent: int
    award: Award


def note_likeness(submission: Submission, base: Tree, candidate: Tree) -> None:
    """Record what a new submission changes, and whom it nearly equals. Inside the transaction that seals it."""
    own = changed_lines(base, candidate, blob_store())
    ChangedLines.objects.create(submission=submission, digests=sorted(own))
    others = (
        ChangedLines.objects.filter(
            submission__bounty__lineage=submission.bounty.lineage_id, submission__merged_at=None
        )
        .exclude(submission__submitter=submission.submitter_id)
        .exclude(submission__state__in=ENDED)
        .exclude(submission=submission)
        .select_related("submission")
    )
    for other in others.iterator():
        percent = percent_equal(own, frozenset(other.digests))
        if percent >= NEARLY_EQUAL_PERCENT:
            later, earlier = submission, other.submission
            if earlier.sealed_at > later.sealed_at:  # a pull request's head, sealed before it was submitted
                later, earlier = earlier, later
            Likeness.objects.create(later=later, earlier=earlier, percent=percent)


def nearly_equal_earlier(submission: Submission) -> QuerySet[Submission]:
    """The submissions sealed earlier, in any series of the lineage, that it nearly equals."""
    return Submission.objects.filter(like_later__later=submission)


def nearly_equal_awarded(submission: Submission) -> list[NearlyEqual]:
    """Those nearly equal to it that were booked before it, in the order of their bookings."""
    booked = Award.objects.filter(state__in=STANDING).exclude(role=AwardRole.SUPPLEMENT)
    own = booked.filter(submission=submission).first()
    rows = Likeness.objects.filter(Q(later=submission) | Q(earlier=submission))
    percents = {
        (row.earlier_id if row.later_id == submission.pk else row.later_id): row.percent for row in rows
    }
    awards = booked.filter(submission__in=percents).order_by("series_at", "pk")
    if own is not None:
        awards = awards.filter(series_at__lt=own.series_at)
    found = awards.select_related("submission__bounty", "confirmation_run__candidate_tree")
    return [NearlyEqual(award.submission, percents[award.submission_id], award) for award in found]


def words_on_likeness(submission: Submission) -> str:
    """What a verdict says of the nearly equal submissions that have their awards; empty where there are none."""
    return "".join(
        f" Also compared with submission {other.submission.pk}: {other.percent} % of the changed lines are the same; "
        "the price counts what this patch adds to it."
        for other in nearly_equal_awarded(submission)
    )
