"""Detection of copies, and refusal of a second measurement of the same candidate.

Two submissions are the same candidate if they have the same normalised diff, the same tree, or the same code
apart from what its normal form drops. If another person submitted it earlier, this one is a copy and earns nothing.
While the earlier one is being judged, the copy waits and is decided with it, so that no one learns what is sealed.
A person's own candidate is refused while it is being judged, after it was judged against the same base, and
after it got its award. Each one that is taken counts as an attempt.
"""

from datetime import datetime

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import AlreadyJudged, AlreadySubmitted
from bounty.models import (
    Bounty,
    DisputeState,
    Lineage,
    RunKind,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.access import is_decided, phase_of
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base
from bounty.services.series.copied_heads import earlier_head, reason_of_copied_head
from bounty.services.transitions import move
from bounty.visibility import Part, Phase, Viewer, may_see
from gainshare.accounts.models import User

IN_FLIGHT = (
    SubmissionState.CHECKED,
    SubmissionState.QUEUED,
    SubmissionState.JUDGING,
    SubmissionState.CONFIRMING,
)
AWARDED = (
    SubmissionState.CONFIRMED,
    SubmissionState.ACCEPTED,
    SubmissionState.VESTED,
    SubmissionState.REVERSED,
)


def has_samples(submission: Submission) -> bool:
    """Whether a runner may have taken a first sample: from then on it counts as an attempt."""
    return submission.runs.filter(was_sampled=True).exists()


def earlier_copy(
    *,
    bounty: Bounty,
    submitter: User,
    patch_digest: str,
    code_digest: str,
    candidate: StoredTree,
    base: StoredTree,
    before: Submission | None = None,
    sealed_at: datetime | None = None,
) -> Submission | None:
    """The other person's submission that this one copies, or None.

    ``base`` is the tree that the candidate would be measured against. ``before`` is the submission itself, if it is
    stored already: only those sealed before it count. ``sealed_at`` is when a pull request's head was sealed that is
    submitted later: only those of others sealed before that count. Raises AlreadySubmitted or AlreadyJudged for
    the submitter's own earlier ones. The caller holds the lineage's lock, so the sealing order is exact.
    """
    earlier = (
        Submission.objects.filter(
            Q(patch_digest=patch_digest) | Q(candidate_tree=candidate) | Q(code_digest=code_digest),
            bounty__lineage=bounty.lineage_id,
        )
        .exclude(state=SubmissionState.REJECTED)
        .select_related("bounty")
        .order_by("sealed_at")
    )
    if before is not None:
        earlier = earlier.filter(sealed_at__lt=before.sealed_at).exclude(pk=before.pk)
    for old in earlier:
        if old.state == SubmissionState.WITHDRAWN and not has_samples(old):
            continue
        if old.submitter_id != submitter.pk:
            if sealed_at is not None and old.sealed_at >= sealed_at:
                continue
            return old
        if _may_be_sent_again(old):
            continue
        if old.state == SubmissionState.DECLINED and old.patch_digest != patch_digest:
            continue  # a reviewer may have asked for other comments or layout
        _refuse_own(old, bounty, base)
    return None


def reason_of_copy(original: Submission) -> str:
    """Why a copy is rejected, and what its author can do."""
    return (
        f"This is a copy of submission {original.pk}, which was submitted earlier by another "
        "person. Copies earn nothing. Submit a change of your own."
    )


def is_awaited(original: Submission) -> bool:
    """Whether a copy of this submission waits for its decision."""
    return phase_of(original) in (Phase.BEING_JUDGED, Phase.IN_DOUBT)


def settle_copy(submission: Submission) -> bool:
    """Decide a copy with its original: it is rejected, or judged itself if that was withdrawn before its first sample.

    False while the original is being judged or in doubt, or if another worker has done it.
    """
    with transaction.atomic():
        lineage_id = submission.bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        submission = Submission.objects.select_related("bounty", "submitter").get(pk=submission.pk)
        if submission.state != SubmissionState.CHECKED or submission.candidate_tree is None:
            return False
        against = measured_base(bounty=submission.bounty)
        original = earlier_copy(
            bounty=submission.bounty,
            submitter=submission.submitter,
            patch_digest=submission.patch_digest,
            code_digest=submission.code_digest,
            candidate=submission.candidate_tree,
            base=against,
            before=submission,
        )
        if original is not None:
            return not is_awaited(original) and _reject_copy(submission, reason_of_copy(original), original)
        head = earlier_head(submission)
        if head is not None:
            return _reject_copy(submission, reason_of_copied_head(head))
        move(
            submission,
            to=SubmissionState.QUEUED,
            reason="the earlier one was withdrawn; waits for a runner",
            copy_of=None,
        )
        queue_run(submission=submission, kind=RunKind.GATE, base=against)
    return True


def _reject_copy(submission: Submission, reason: str, original: Submission | None = None) -> bool:
    return move(
        submission,
        to=SubmissionState.REJECTED,
        reason=reason,
        copy_of=original,
        verdict_kind=VerdictKind.PATCH_REJECTED.value,
        verdict_reason=reason,
        judged_at=timezone.now(),
    )


def _may_be_sent_again(old: Submission) -> bool:
    """Whether the earlier verdict says nothing about the candidate: the platform failed, or it was overturned."""
    if old.state != SubmissionState.JUDGED:
        return False
    return (
        old.verdict_kind == VerdictKind.INFRASTRUCTURE_ERROR
        or old.disputes.filter(state=DisputeState.OVERTURNED).exists()
    )


def _refuse_own(old: Submission, bounty: Bounty, base: StoredTree) -> None:
    same_series = (old.bounty.suite, old.bounty.preset, old.bounty.hardware) == (
        bounty.suite,
        bounty.preset,
        bounty.hardware,
    )
    phase = phase_of(old)
    # Also one that waits for escrow: another answer than while its gate is measured would tell that this has passed.
    if same_series and (old.state in IN_FLIGHT or phase is Phase.BEING_JUDGED):
        raise AlreadySubmitted(f"This candidate is already being judged: see submission {old.pk}.").of(old.pk)
    if old.state in AWARDED:
        raise AlreadyJudged(
            f"This change already has its award, and a gain is paid only once: see submission {old.pk}."
        ).of(old.pk)
    if same_series and old.runs.filter(kind__in=[RunKind.GATE, RunKind.FIX], base_tree=base).exists():
        told = old.get_state_display() if may_see(Viewer.AUTHOR, Part.COURSE, phase) else "being judged"
        verdict = f"{old.verdict_kind}: {old.verdict_reason}" if is_decided(old) else told
        raise AlreadyJudged(
            f"This candidate was judged against the same base in submission {old.pk} ({verdict}). "
            "A candidate is judged only once against a base. Change the patch and submit it again."
        ).of(old.pk)
