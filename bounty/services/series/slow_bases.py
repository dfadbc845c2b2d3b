"""A maintainer's decision about a base that may be slower than what was paid for it.

Such a base is found by the old pairs of a confirmation (`bounty.services.runs.old_trees`), or by two scheduled checks
(`bounty.services.series.tip_checks`); the lineage's merges wait meanwhile.
"""

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import BadRequest, NotAllowed, NotFound, WrongState
from bounty.models import (
    Award,
    AwardState,
    Lineage,
    SlowBase,
    SlowBaseState,
    SubmissionState,
)
from bounty.services.awards.lifecycle import reverse
from bounty.services.awards.repricing import order_repricings, priced_after, refused_against
from bounty.services.bounties import follow_funds
from bounty.services.permissions import require_maintainer
from bounty.services.reviews import decline, judge_from_the_gate
from bounty.services.transitions import note
from bounty.services.trees import has_present_layout
from gainshare.accounts.models import User

ANSWERS = (SlowBaseState.KEPT.value, SlowBaseState.SLOW.value)


def slow_bases() -> QuerySet[SlowBase]:
    """All findings, the newest first."""
    found = SlowBase.objects.select_related(
        "run", "award__submission__bounty__lineage", "award__confirmation_run", "answered_by"
    )
    return found.order_by("-created_at")


def find_slow_base(slow_base_id: UUID) -> SlowBase:
    """The finding; raises NotFound."""
    found = slow_bases().filter(pk=slow_base_id).first()
    if found is None:
        raise NotFound("There is no such finding about a base.")
    return found


def decide_slow_base(*, actor: User, slow_base_id: UUID, answer: str, text: str) -> SlowBase:
    """Decide that a base kept its gain, or that it is slow. Repeating the same answer changes nothing.

    A slow base's award is taken back, whether it is vested or not, and a merge of it at the tip is undone. What was priced
    against it is measured again and paid what it is worth more (`bounty.services.awards.repricing`); what was refused
    against it is judged again. Either way the submissions that were suspicious only because of it are judged again,
    against the tree that is best then. Raises
    NotFound, NotAllowed, BadRequest and WrongState.
    """
    require_maintainer(actor, "decide about a base")
    if answer not in ANSWERS:
        raise BadRequest(f"The answer must be one of {', '.join(ANSWERS)}.")
    text = text.strip()
    if not text:
        raise BadRequest("Give a reason; the authors will read it.")
    with transaction.atomic():
        lineage_id = find_slow_base(slow_base_id).award.submission.bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        row = find_slow_base(slow_base_id)
        if row.state == answer:
            return row
        if row.state != SlowBaseState.OPEN:
            raise WrongState(f"This was already decided: {row.get_state_display().lower()}.")
        alike = list(slow_bases().filter(award=row.award, state=SlowBaseState.OPEN))
        _require_uninvolved(actor, alike)
        for each in alike:
            SlowBase.objects.filter(pk=each.pk, state=SlowBaseState.OPEN).update(
                state=answer, answer=text, answered_by=actor, answered_at=timezone.now()
            )
            note(each, old=SlowBaseState.OPEN, new=answer, reason=text[:1000], actor=actor)
        if answer == SlowBaseState.SLOW:
            refused = refused_against(row.award)
            _take_back(row.award, actor, text)
            order_repricings(award=row.award)
            for submission in refused:
                reason = "the base that it was refused against proved slow"
                judge_from_the_gate(submission=submission, actor=actor, reason=reason)
        for each in alike:
            _judge_again(each, actor)
    fault_point("control.slow_base_decided")
    return find_slow_base(slow_base_id)


def _require_uninvolved(actor: User, alike: list[SlowBase]) -> None:
    involved = {each.award.submission.submitter_id for each in alike}
    involved |= {each.run.submission.submitter_id for each in alike if each.run.submission is not None}
    award = alike[0].award
    involved |= {later.submission.submitter_id for later in priced_after(award)}
    involved |= {refused.submitter_id for refused in refused_against(award)}
    if actor.pk in involved:
        raise NotAllowed("You are paid by one of these measurements. Another maintainer has to decide.")


def _take_back(award: Award, actor: User, reason: str) -> None:
    """Reverse a vested award; decline the submission of an unvested one."""
    award.refresh_from_db()
    submission = award.submission
    if award.state == AwardState.VESTED:
        reverse(actor=actor, submission=submission, reason=reason)
    elif award.state == AwardState.UNVESTED:
        if submission.merged_at is not None or submission.state == SubmissionState.CONFIRMING:
            raise WrongState(
                "The base's own award is being paid or priced again just now. Try again in a moment."
            )
        decline(submission=submission, actor=actor, comment=reason)
        follow_funds(bounty=submission.bounty)


def _judge_again(row: SlowBase, actor: User) -> None:
    submission = row.run.submission
    if submission is None or submission.verdict_run_id != row.run_id:
        return
    is_waiting = submission.state == SubmissionState.JUDGED
    if (
        is_waiting
        and submission.verdict_kind == VerdictKind.SUSPICIOUS
        and has_present_layout(submission.base_tree_id)
    ):
        judge_from_the_gate(
            submission=submission, actor=actor, reason=f"the base was decided to be {row.state}"
        )
