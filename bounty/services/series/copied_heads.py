"""Copies of pull requests' heads: a head is public and sealed when it is seen, also a draft that is not judged yet.

A submission that another person seals later with the same diff, tree or code earns nothing, even if the head's diff was
read only afterwards.
"""

from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    OPEN_RUN_STATES,
    Head,
    Lineage,
    NextStep,
    RunState,
    Submission,
    SubmissionState,
)
from bounty.services.awards.lifecycle import void_award
from bounty.services.transitions import move

S = SubmissionState
UNDECIDED = Q(state__in=[S.CHECKED, S.QUEUED, S.JUDGING, S.CONFIRMING]) | (
    Q(state=S.JUDGED) & ~Q(next_step=NextStep.NONE)
)


def earlier_head(submission: Submission) -> Head | None:
    """The other person's head that this submission copies: sealed before it, and not submitted itself.

    A head that was submitted is found among the submissions. The caller holds the lineage's lock.
    """
    same = Q(patch_digest=submission.patch_digest) | Q(tree=submission.candidate_tree_id)
    found = Head.objects.filter(
        same | Q(code_digest=submission.code_digest),
        pull_request__repository__bindings__lineage=submission.bounty.lineage_id,
        submission=None,
        sealed_at__lt=submission.sealed_at,
        is_of_queue=False,
    ).exclude(diff_blob="")
    others = found.exclude(pull_request__author__user=submission.submitter_id)
    return others.select_related("pull_request__repository").order_by("sealed_at", "pk").first()


def reason_of_copied_head(head: Head) -> str:
    """Why a copy of a pull request's head is rejected, and what its author can do."""
    return (
        f"This is a copy of commit {head.sha[:12]} of pull request {head.pull_request}, which another person made public "
        "earlier. Copies earn nothing. Submit a change of your own."
    )


def end_later_copies(head: Head) -> int:
    """End the submissions that copy this head and are not booked, in the transaction that seals it; their number.

    The caller holds the lock of the lineages.
    """
    same = (
        Q(patch_digest=head.patch_digest) | Q(candidate_tree=head.tree_id) | Q(code_digest=head.code_digest)
    )
    later = Submission.objects.filter(
        same & UNDECIDED,
        bounty__lineage__repository__github=head.pull_request.repository_id,
        sealed_at__gt=head.sealed_at,
    ).exclude(submitter=head.pull_request.author.user_id)
    return sum(_end(submission, head) for submission in later.select_related("bounty"))


def lock_lineages(head: Head) -> None:
    """Lock the lineages that are bound to the head's repository, in the order of their keys."""
    bound = Lineage.objects.filter(repository__github=head.pull_request.repository_id).order_by("pk")
    list(bound.select_for_update(no_key=True, of=["self"]))


def _end(submission: Submission, head: Head) -> bool:
    reason = reason_of_copied_head(head)
    verdict: dict[str, Any] = {
        "verdict_kind": VerdictKind.PATCH_REJECTED.value,
        "verdict_reason": reason,
        "judged_at": timezone.now(),
        "next_step": NextStep.NONE,
    }
    with transaction.atomic():
        if submission.state == S.JUDGED:
            row = Submission.objects.filter(pk=submission.pk, state=S.JUDGED)
            if not row.update(**verdict):
                return False
        elif not move(
            submission, to=S.REJECTED if submission.state == S.CHECKED else S.JUDGED, reason=reason, **verdict
        ):
            return False
        for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
            move(run, to=RunState.LOST, reason="the submission copies a pull request")
        void_award(submission=submission, reason=reason)
    return True
