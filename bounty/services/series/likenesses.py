"""Nearly equal submissions: noted when the later one is sealed, for as long as both are in the lineage.

They are those of other people in any series of the lineage, and the person's own in another series: one change is paid
once. A person's patches in one series are attempts at the same gain, so they are not compared. No one is called a copier
for a nearly equal patch. A price counts only what the patch adds to one that has its award
(`bounty.services.series.comparisons`).
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
    """A submission whose award came first, and how much of the smaller change is the same."""

    submission: Submission
    percent: int
    award: Award


def note_likeness(submission: Submission, base: Tree, candidate: Tree) -> None:
    """Record what a new submission changes, and what it nearly equals. Inside the transaction that seals it."""
    own, bounty = changed_lines(base, candidate, blob_store()), submission.bounty
    ChangedLines.objects.create(submission=submission, digests=sorted(own))
    others = (
        ChangedLines.objects.filter(submission__bounty__lineage=bounty.lineage_id, submission__merged_at=None)
        .exclude(
            submission__submitter=submission.submitter_id,
            submission__bounty__suite=bounty.suite,
            submission__bounty__hardware=bounty.hardware,
        )
        .exclude(submission__state__in=ENDED)
        .exclude(submission=submission)
        .select_related("submission")
    )
    for other in others.iterator():
        is_equal = _is_equal(submission, other.submission)
        percent = 100 if is_equal else percent_equal(own, frozenset(other.digests))
        if percent >= NEARLY_EQUAL_PERCENT:
            later, earlier = submission, other.submission
            if earlier.sealed_at > later.sealed_at:  # a pull request's head, sealed before it was submitted
                later, earlier = earlier, later
            Likeness.objects.create(later=later, earlier=earlier, percent=percent)


def _is_equal(one: Submission, other: Submission) -> bool:
    """Whether two candidates are the same in their normal form, also where it hides every changed line."""
    if one.code_digest and one.code_digest == other.code_digest:
        return True
    return one.patch_digest == other.patch_digest or one.candidate_tree_id == other.candidate_tree_id


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
