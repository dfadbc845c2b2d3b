"""Re-measurement after the best tree moved: open gains are applied to the current tree and priced again, or ended.

A diff is applied exactly or not at all. There is no second gate, only another confirmation, whose bound
replaces the price. The new price is at most the reservation.
"""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import TreeError
from bounty.errors import BadRequest, NotAllowed, WrongBase, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    AwardState,
    Lineage,
    NextStep,
    Run,
    RunKind,
    RunState,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.awards.lifecycle import standing_award, void_award
from bounty.services.bounties import follow_funds
from bounty.services.runs.guard_rails import pricing_run
from bounty.services.runs.lifecycle import queue_run
from bounty.services.runs.logs import say
from bounty.services.series.best import (
    is_left_behind,
    measured_base,
    measured_present_trees,
    patch_base,
    wake_left_behind,
)
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, note
from bounty.services.trees import AGAINST_TIP, blob_store, load_tree, require_present_layout, store_tree
from gainshare.accounts.models import User

OPEN_GAIN = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED)
AFTER_A_PRICE = (RunKind.COMPARISON, RunKind.GUARD)  # they belong to the trees of that price
WHY = "the best tree moved"


def applied_to(base: StoredTree, submission: Submission) -> StoredTree:
    """Apply the submission's diff to ``base`` and return the tree. Raises WrongBase if it does not apply exactly."""
    store = StagedBlobs(blob_store())
    try:
        tree = apply_patch(load_tree(base), parse_patch(store.get(submission.diff_blob)), store)
    except PatchError as error:
        raise WrongBase(error.message) from None
    except TreeError as error:  # the platform's own tree or blob is damaged, which is not the diff's fault
        raise BadRequest(error.message, code=error.code, status=500) from None
    store.write()
    return store_tree(tree=tree, parent=base, created_by=submission.submitter)


def remeasure(*, actor: User, submission_id: UUID) -> Submission:
    """Apply an open gain to the moved tip now; the control plane does the same automatically."""
    submission = find_submission(submission_id)
    if not actor.is_maintainer and submission.submitter_id != actor.pk:
        raise NotAllowed("Only a maintainer or the author can have a submission measured again.")
    if submission.state not in OPEN_GAIN or submission.merged_at is not None:
        raise WrongState(f"A submission that is {submission.state} cannot be measured again.")
    require_present_layout(submission.base_tree_id, instead=f"Its award is kept as measured. {AGAINST_TIP}")
    if not follow_best(submission_id=submission_id, actor=actor):
        raise WrongState(
            "The tip has not moved since this was measured, so nothing has to be measured again: merge it."
        )
    return find_submission(submission_id)


def follow_best(*, submission_id: UUID, actor: User | None = None) -> bool:
    """Apply a diff that was left behind to the current tree. False if there is nothing to do now.

    A submission whose run is being measured waits for that run's verdict. If the diff does not apply, the
    author is asked to submit it again, and reserved or booked credits return to escrow.
    """
    with transaction.atomic():
        lineage_id = find_submission(submission_id).bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        if submission.merged_at is not None or not _may_follow(submission) or not is_left_behind(submission):
            return False
        base = patch_base(bounty=submission.bounty, of=submission)
        try:
            candidate = applied_to(base, submission)
        except WrongBase as refusal:
            _send_back(submission, base, refusal.message)
        else:
            _follow(submission, base, candidate, actor)
        wake_left_behind(lineage_id=lineage_id)
    follow_funds(bounty=submission.bounty)
    fault_point("control.followed")
    return True


def _may_follow(submission: Submission) -> bool:
    state = submission.state
    if state == SubmissionState.JUDGED:
        return submission.next_step != NextStep.NONE
    if state in (SubmissionState.QUEUED, SubmissionState.CONFIRMING):
        return not submission.runs.filter(state__in=OPEN_RUN_STATES).exists()
    return state in OPEN_GAIN


def _follow(submission: Submission, base: StoredTree, candidate: StoredTree, actor: User | None) -> None:
    """Give the locked submission its new trees, and order or redirect the run that measures them."""
    why = f"{WHY}: applied to {base.pk[:12]}"
    if submission.state in OPEN_GAIN:
        end_runs(submission, WHY)  # a random re-measurement of the old candidate
        move(
            submission,
            to=SubmissionState.CONFIRMING,
            reason=f"{why}, to be priced again",
            actor=actor,
            base_tree=base,
            candidate_tree=candidate,
        )
        order_price(submission=submission)
        return
    submission.base_tree, submission.candidate_tree = base, candidate
    submission.save(update_fields=["base_tree", "candidate_tree"])
    note(submission, old=submission.state, new=submission.state, reason=why, actor=actor)
    if submission.state in (SubmissionState.QUEUED, SubmissionState.CONFIRMING):
        _redirect(submission)


def _redirect(submission: Submission) -> None:
    """Point the waiting run at the new trees, keeping its place in the queue; order a price if no run waits."""
    waiting = submission.runs.filter(state=RunState.QUEUED).exclude(kind__in=AFTER_A_PRICE).first()
    if waiting is None:
        end_runs(submission, WHY)
        order_price(submission=submission)
        return
    against = measured_base(bounty=submission.bounty, of=submission)
    Run.objects.filter(pk=waiting.pk, state=RunState.QUEUED).update(
        base_tree=against, candidate_tree=submission.candidate_tree
    )
    note(waiting, old=waiting.state, new=waiting.state, reason=WHY)
    say(waiting, f"{WHY}: candidate {submission.candidate_tree_id} against {against.pk}")


def order_price(*, submission: Submission) -> Run:
    """Order another pricing run of a confirming submission, on another host if there is one."""
    award = standing_award(submission)
    is_booked = award is not None and award.state == AwardState.UNVESTED
    return queue_run(
        submission=submission,
        kind=RunKind.RECHECK if is_booked else RunKind.CONFIRMATION,
        base=measured_base(bounty=submission.bounty, of=submission),
        avoid_host_of=pricing_run(submission),
    )


def end_runs(submission: Submission, reason: str, actor: User | None = None) -> None:
    """Cancel queued and open runs; a runner learns of it with its next heartbeat."""
    for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
        move(run, to=RunState.LOST, reason=reason, actor=actor)


def _send_back(submission: Submission, base: StoredTree, why: str) -> None:
    """End a locked submission whose diff no longer applies; no attempt is counted, and its money returns."""
    reason = (
        f"The lineage's tree changed, and the diff no longer applies to it ({why}). Make the diff against "
        f"{base.pk} and submit it again. This one does not count as an attempt."
    )
    end_runs(submission, WHY)
    end_uncounted(submission, reason=reason, void="the diff does not apply to the moved tip")


def end_uncounted(submission: Submission, *, reason: str, void: str, actor: User | None = None) -> None:
    """End a locked submission through no fault of its author; its award is voided with the reason ``void``.

    It is judged `patch_rejected` without a run, which does not count as an attempt.
    """
    fields: dict[str, Any] = {
        "verdict_kind": VerdictKind.PATCH_REJECTED.value,
        "verdict_reason": reason,
        "verdict_run": None,
        "next_step": NextStep.NONE,
        "judged_at": timezone.now(),
    }
    if submission.state == SubmissionState.JUDGED:
        Submission.objects.filter(pk=submission.pk).update(**fields)
        note(submission, old=submission.state, new=submission.state, reason=reason, actor=actor)
    else:
        move(submission, to=SubmissionState.JUDGED, reason=reason, actor=actor, **fields)
    void_award(submission=submission, reason=void)


def order_price_again(*, submission_id: UUID) -> bool:
    """Order another price for a confirming submission whose run measured trees that no longer count.

    False if another worker has already done it.
    """
    if follow_best(submission_id=submission_id):
        return True
    with transaction.atomic():
        lineage_id = find_submission(submission_id).bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        run = pricing_run(submission)
        if submission.state != SubmissionState.CONFIRMING or run is None:
            return False
        if submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).exists():
            return False
        if measured_present_trees(run, submission):
            return False
        order_price(submission=submission)
    return True
