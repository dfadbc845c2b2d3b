"""Disputes: a submission's author objects to its verdict, and another maintainer answers.

An answer never creates an award, because that needs evidence. It keeps the verdict, orders another measurement (with
new secrets, and on another host if there is one), or overturns the verdict. Everything stays on record.
"""

from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import AlreadyDisputed, BadRequest, NotAllowed, NotFound, TooManyDisputes, WrongState
from bounty.limits import MAX_DISPUTE_CHARS, MAX_DISPUTES
from bounty.models import (
    OPEN_RUN_STATES,
    AwardState,
    Dispute,
    DisputeState,
    Lineage,
    NextStep,
    Run,
    RunKind,
    RunState,
    Submission,
    SubmissionState,
)
from bounty.services.access import require_uninvolved
from bounty.services.awards.lifecycle import standing_award
from bounty.services.permissions import require_maintainer
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base
from bounty.services.series.remeasure import order_price
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, must_move, note
from bounty.services.trees import AGAINST_TIP, has_present_layout, require_present_layout
from bounty.services.wakeups import wake_control
from gainshare.accounts.models import User

ANSWERS = {
    "uphold": DisputeState.UPHELD,
    "remeasure": DisputeState.REMEASURED,
    "overturn": DisputeState.OVERTURNED,
}
DISPUTABLE = (
    SubmissionState.REJECTED,
    SubmissionState.JUDGED,
    SubmissionState.CONFIRMED,
    SubmissionState.ACCEPTED,
)


def find_dispute(dispute_id: UUID) -> Dispute:
    """The dispute with its submission; raises NotFound."""
    found = Dispute.objects.select_related("submission__bounty__lineage", "run", "author")
    dispute = found.filter(pk=dispute_id).first()
    if dispute is None:
        raise NotFound("There is no such dispute.")
    return dispute


def disputes(*, state: str = "", author: User | None = None) -> QuerySet[Dispute]:
    """All disputes, the newest first."""
    found = Dispute.objects.select_related("submission__bounty", "author", "answered_by", "run")
    if state:
        found = found.filter(state=state)
    if author is not None:
        found = found.filter(author=author)
    return found.order_by("-created_at")


def may_dispute(submission: Submission) -> bool:
    """Whether the verdict can be disputed: it is decided, and nothing was merged or paid for it."""
    return (
        submission.has_verdict
        and submission.state in DISPUTABLE
        and submission.merged_at is None
        and not submission.disputes.filter(run=submission.verdict_run_id, state=DisputeState.OPEN).exists()
    )


def file_dispute(*, actor: User, submission_id: UUID, text: str) -> Dispute:
    """Dispute the present verdict of the actor's own submission.

    Raises NotFound, NotAllowed, BadRequest (empty or too long text), WrongState (nothing to dispute),
    AlreadyDisputed, TooManyDisputes.
    """
    text = text.strip()
    if not text:
        raise BadRequest("Write what is wrong with the verdict; a maintainer will read it.")
    if len(text) > MAX_DISPUTE_CHARS:
        raise BadRequest(f"The text is too long. Write at most {MAX_DISPUTE_CHARS} characters.")
    with transaction.atomic():
        if find_submission(submission_id).submitter_id != actor.pk:
            raise NotAllowed("Only the author of a submission can dispute its verdict.")
        # The lock serialises the count over all of the person's submissions to the bounty.
        User.objects.select_for_update(no_key=True).get(pk=actor.pk)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        if (
            not submission.has_verdict
            or submission.state not in DISPUTABLE
            or submission.merged_at is not None
        ):
            raise WrongState(
                f"This submission is {submission.state} and has no verdict to dispute. You can dispute a verdict "
                "when it is decided, and before the submission is declined, withdrawn, merged or paid."
            )
        made = Dispute.objects.filter(author=actor, submission__bounty=submission.bounty_id).count()
        if made >= MAX_DISPUTES:
            raise TooManyDisputes(
                f"You have already disputed {made} verdicts of this bounty, which is the limit."
            )
        try:
            with transaction.atomic():
                dispute = Dispute.objects.create(
                    submission=submission,
                    run=submission.verdict_run,
                    verdict_kind=submission.verdict_kind,
                    verdict_reason=submission.verdict_reason,
                    author=actor,
                    text=text,
                )
        except IntegrityError:
            raise AlreadyDisputed("This verdict already has an open dispute. Wait for the answer.") from None
        note(dispute, old="", new=dispute.state, reason=text[:1000], actor=actor)
    return dispute


def answer_dispute(*, actor: User, dispute_id: UUID, answer: str, text: str) -> Dispute:
    """Uphold the verdict, order a re-measurement, or overturn it. Repeating the same answer changes nothing.

    Raises NotFound, NotAllowed, BadRequest, WrongState (answered already, or the verdict is no longer this one).
    """
    if answer not in ANSWERS:
        raise BadRequest(f"The answer must be one of {', '.join(ANSWERS)}.")
    text = text.strip()
    if not text:
        raise BadRequest("Give a reason; the author will read it.")
    if len(text) > MAX_DISPUTE_CHARS:
        raise BadRequest(f"The text is too long. Write at most {MAX_DISPUTE_CHARS} characters.")
    to = ANSWERS[answer]
    with transaction.atomic():
        dispute = find_dispute(dispute_id)
        _require_another_maintainer(actor, dispute)
        # The lineage's lock is taken first, as in merging and booking.
        Lineage.objects.select_for_update(no_key=True).get(pk=dispute.submission.bounty.lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=dispute.submission_id)
        dispute = find_dispute(dispute_id)
        if dispute.state == to and dispute.answered_by_id == actor.pk:
            return dispute
        if dispute.state != DisputeState.OPEN:
            raise WrongState(f"This dispute was already answered: {dispute.get_state_display().lower()}.")
        submission = find_submission(dispute.submission_id)
        ordered = None
        if to != DisputeState.UPHELD:
            _require_same_verdict(dispute, submission)
            act = _measure_again if to == DisputeState.REMEASURED else _overturn
            ordered = act(submission, actor)
        is_moved = move(
            dispute,
            to=to,
            reason=text[:1000],
            actor=actor,
            answer=text,
            answered_by=actor,
            ordered_run=ordered,
            answered_at=timezone.now(),
        )
        assert is_moved, "the submission's row is locked"
        wake_control(submission_id=submission.pk)
    return dispute


def _require_another_maintainer(actor: User, dispute: Dispute) -> None:
    if dispute.author_id == actor.pk:
        raise NotAllowed("You cannot answer your own dispute. Another maintainer has to answer it.")
    require_maintainer(actor, "answer a dispute")
    require_uninvolved(actor, dispute.submission)


def _require_same_verdict(dispute: Dispute, submission: Submission) -> None:
    is_same = submission.has_verdict and submission.verdict_run_id == dispute.run_id
    if not is_same or submission.state not in DISPUTABLE or submission.merged_at is not None:
        raise WrongState(
            f"The submission is now {submission.state} and has another verdict. Uphold the disputed "
            "verdict, and say so in the answer."
        )


def _measure_again(submission: Submission, actor: User) -> Run:
    """Order another measurement: a booked gain is priced again, anything else is judged again from the gate on.

    Raises OldLayout for trees that cannot be measured any more.
    """
    require_present_layout(submission.base_tree_id, instead=f"Uphold or overturn the verdict. {AGAINST_TIP}")
    before = submission.verdict_run
    award = standing_award(submission)
    if award is not None and award.state == AwardState.UNVESTED:
        for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
            move(run, to=RunState.LOST, reason="a dispute ordered another measurement")
        must_move(submission, to=SubmissionState.CONFIRMING, reason="a dispute: priced again", actor=actor)
        return order_price(submission=submission)
    if submission.candidate_tree_id is None:
        raise WrongState(
            "The diff was rejected before it ran, so there is nothing to measure. Uphold or overturn the verdict."
        )
    must_move(
        submission,
        to=SubmissionState.QUEUED,
        reason=f"a dispute: judged again after {submission.verdict_kind}",
        actor=actor,
        verdict_kind="",
        verdict_reason="",
        verdict_run=None,
        copy_of=None,
        next_step=NextStep.NONE,
    )
    against = measured_base(bounty=submission.bounty, of=submission)
    return queue_run(submission=submission, kind=RunKind.GATE, base=against, avoid_host_of=before)


def _overturn(submission: Submission, actor: User) -> None:
    """Overturn the verdict. A doubted gain is restored as confirmed. A gain that was suspicious at the gate continues
    to its confirmation. Anything else no longer counts, neither as an attempt nor against the same patch."""
    is_suspicious = submission.verdict_kind == VerdictKind.SUSPICIOUS
    award, run = standing_award(submission), submission.verdict_run
    if is_suspicious and award is not None and award.confirmation_run is not None:
        verdict = award.confirmation_run.verdict
        must_move(
            submission,
            to=SubmissionState.CONFIRMED,
            reason="a dispute: the confirmation is valid again",
            actor=actor,
            verdict_kind=verdict.kind,
            verdict_reason=verdict.reason,
            verdict_run=award.confirmation_run,
        )
    elif is_suspicious and run is not None and run.kind == RunKind.GATE and _may_earn(run):
        Submission.objects.filter(pk=submission.pk).update(next_step=NextStep.RESERVE)
        note(
            submission,
            old=submission.state,
            new=submission.state,
            reason="a dispute: the gate counts as passed",
            actor=actor,
        )
    elif submission.state in (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED):
        raise WrongState(
            "A confirmed gain cannot be overturned, because its price comes from evidence. Uphold it, or "
            "have it measured again."
        )


def _may_earn(run: Run) -> bool:
    verdict = run.verdict
    evidence = verdict.evidence
    if not has_present_layout(run.candidate_tree_id):
        return False  # it can no longer be confirmed
    return evidence is not None and evidence.is_award_eligible and (verdict.log_ppm_estimate or 0) > 0
