"""Awards of dormant authors go back to escrow after 90 days without a claim. Money and state change in one transaction.

Waking or linking an account takes the lock of its number, and so does a return: a claim at the same moment comes before
it, and keeps the award, or after it, and finds none.
"""

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.limits import UNCLAIMED_AFTER
from bounty.models import Award, AwardRole, AwardState, Lineage, Submission, SubmissionState
from bounty.services.awards.lifecycle import void_award
from bounty.services.bounties import follow_funds, step_id
from bounty.services.series.best import wake_left_behind
from bounty.services.transitions import move
from gainshare.accounts.github_accounts import lock_number
from gainshare.ledger import services as ledger

logger = logging.getLogger(__name__)

REASON = (
    f"not claimed within {UNCLAIMED_AFTER.days} days: its author never signed in with GitHub, so the award went back to "
    "the escrow"
)


def return_unclaimed() -> int:
    """Return every award that is due; the number of submissions. Repeating changes nothing; one that fails is logged."""
    returned = 0
    due = Submission.objects.filter(awards__in=_due_awards(timezone.now())).distinct()
    for submission in due.select_related("submitter__github", "bounty").order_by("pk"):
        try:
            returned += _return(submission)
        except Exception:  # one broken row must not keep the others
            logger.exception("could not return the unclaimed award of submission %s", submission.pk)
    return returned


def _due_awards(now: datetime) -> QuerySet[Award]:
    """Awards whose author is dormant, long after they vested, or long after they were booked without a merge."""
    long_ago = now - UNCLAIMED_AFTER
    vested = Q(state=AwardState.VESTED, vested_at__lte=long_ago)
    unmerged = Q(
        state=AwardState.UNVESTED,
        booked_at__lte=long_ago,
        submission__merged_at=None,
        submission__state__in=[SubmissionState.CONFIRMED, SubmissionState.ACCEPTED],
    )
    return Award.objects.filter(
        vested | unmerged,
        submission__submitter__github__isnull=False,
        submission__submitter__github__linked_at=None,
    ).exclude(role=AwardRole.REPRODUCTION)  # somebody else's


def _return(submission: Submission) -> bool:
    """Return the submission's due awards; False if it was claimed or returned meanwhile."""
    with transaction.atomic():
        lock_number(submission.submitter.github.github_id)
        Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission = Submission.objects.select_related("bounty").get(pk=submission.pk)
        due = list(_due_awards(timezone.now()).filter(submission=submission))
        if not due:
            return False
        if submission.state == SubmissionState.VESTED:
            for award in due:
                _take_back(award)
        elif not _end(submission):
            return False
        fault_point("unclaimed.before_commit")
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    fault_point("unclaimed.returned")
    follow_funds(bounty=submission.bounty)
    return True


def _take_back(award: Award) -> None:
    """Return a vested award. The submission stays vested: nothing is wrong with its gain, which still counts."""
    assert award.transfer_id is not None, "a vested award was booked"
    ledger.reverse_award(
        transfer_id=award.transfer_id, reversal_id=step_id(award.transfer_id, "unclaimed"), reason=REASON
    )
    is_moved = move(award, to=AwardState.RETURNED, reason=REASON, ended_at=timezone.now())
    assert is_moved, "awards change under their lineage's lock"


def _end(submission: Submission) -> bool:
    """Decline an unmerged gain, as a reviewer could: its award is voided and its tree no longer counts."""
    if not move(submission, to=SubmissionState.DECLINED, reason=REASON):
        return False
    void_award(submission=submission, reason=REASON)
    return True
