"""Renewal after a change of layout: lineages begin again at the shipped tree, and open work on older trees ends.

Trees of an older layout cannot be measured. An open submission ends without counting as an attempt, and its
reservation returns. A booked award stays and vests as it was measured. Each step can be repeated and the tip
moves last, so the next renewal finishes an interrupted one.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from benchmarks.faults import fault_point
from bounty.models import (
    OPEN_RUN_STATES,
    Award,
    AwardState,
    Lineage,
    NextStep,
    Reproduction,
    ReproductionState,
    Run,
    RunKind,
    RunState,
    StoredTree,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.bounties import follow_funds
from bounty.services.emergency import require_running
from bounty.services.permissions import require_maintainer
from bounty.services.reproductions import settle
from bounty.services.runs.lifecycle import end_lost
from bounty.services.series.best import wake_left_behind
from bounty.services.series.remeasure import end_runs, end_uncounted
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, note
from bounty.services.trees import (
    SHIPPED,
    find_tree,
    has_present_layout,
    of_older_layout,
    require_present_layout,
)
from gainshare.accounts.models import User

UNFINISHED = (RunState.QUEUED, *OPEN_RUN_STATES)
UNDECIDED = (SubmissionState.QUEUED, SubmissionState.JUDGING, SubmissionState.CONFIRMING)
WHY = "the layout of model/ changed"

MOVED = (
    "A new version of the platform moved modules of model/. This was made for a tree with the older "
    "layout, which can no longer be measured."
)
SUBMIT_AGAIN = "Make the diff against the bounty's current tree and submit it again. This one does not count as an attempt."
SEND_AGAIN = (
    "Submit the reproduction again, so that it is run on the bounty's current tree. This one does not "
    "count as an attempt."
)


class Outcome(StrEnum):
    """Result of a renewal for one submission."""

    ENDED = "ended"  # ended, not counted as an attempt; its reservation returned to escrow
    KEPT = "kept"  # a run was cancelled; the booked award is unchanged
    DECIDED = "decided"  # everything was already measured


@dataclass(frozen=True, slots=True)
class LineageRenewal:
    """Changes of one lineage. ``old_tip`` and ``tip`` are equal if the tip did not move."""

    lineage: str
    old_tip: str
    tip: str
    ended: tuple[UUID, ...]  # submissions that ended and do not count as attempts
    kept: tuple[UUID, ...]  # submissions whose run was cancelled and whose booked award is unchanged
    reproductions: tuple[UUID, ...]  # reproductions that could no longer be run

    @property
    def has_changes(self) -> bool:
        return self.old_tip != self.tip or bool(self.ended or self.kept or self.reproductions)


@dataclass(frozen=True, slots=True)
class Renewal:
    """Result of one call. Unchanged lineages are left out."""

    shipped_tree: str
    cancelled_calibrations: int
    lineages: tuple[LineageRenewal, ...]


def renew_lineages(*, actor: User) -> Renewal:
    """Begin every lineage of an older layout again at the shipped tree, and end open work on older trees.

    Raises NotAllowed; Stopped while awards are stopped, because completely measured gains are booked first;
    OldLayout if the installed stack lacks modules that the judge imports. Repeating changes nothing.
    """
    require_maintainer(actor, "renew lineages")
    require_running(Switch.AWARDS)
    shipped = find_tree(SHIPPED)
    require_present_layout(
        shipped.pk,
        instead="This tree is the installed stack, so the installation is not complete: install it again.",
    )
    cancelled = _cancel_calibrations(actor)
    renewals = [_renew(lineage, shipped, actor) for lineage in Lineage.objects.order_by("name")]
    return Renewal(shipped.pk, cancelled, tuple(renewal for renewal in renewals if renewal.has_changes))


def outdated_lineages() -> list[Lineage]:
    """Lineages whose tip has an older layout, in which nothing is judged until they are renewed."""
    return [lineage for lineage in Lineage.objects.order_by("name") if not has_present_layout(lineage.tip_id)]


def _cancel_calibrations(actor: User) -> int:
    """Cancel A/A runs, and checks of merged trees, of older trees. They count for nothing."""
    runs = Run.objects.filter(kind__in=[RunKind.AA, RunKind.TIP], state__in=UNFINISHED)
    old = of_older_layout(runs.values_list("base_tree", flat=True))
    return sum(move(run, to=RunState.LOST, reason=WHY, actor=actor) for run in runs.filter(base_tree__in=old))


def _renew(lineage: Lineage, shipped: StoredTree, actor: User) -> LineageRenewal:
    done: dict[UUID, Outcome] = {}
    for submission_id in _open_on_old_trees(lineage):
        done[submission_id] = _end(submission_id, actor)
        fault_point("control.renewal_submission_done")
    tried = [pk for pk in _reproductions_on_old_trees(lineage) if _end_reproduction(pk, actor)]
    old_tip = lineage.tip_id
    tip = _move_tip(lineage.pk, shipped, actor)
    fault_point("control.lineage_renewed")
    ended = tuple(pk for pk, outcome in done.items() if outcome is Outcome.ENDED)
    kept = tuple(pk for pk, outcome in done.items() if outcome is Outcome.KEPT)
    return LineageRenewal(lineage.name, old_tip, tip, ended, kept, tuple(tried))


def _is_open() -> Q:
    """Whether the submission waits for a measurement: it is undecided, or a run has not ended."""
    to_reserve = Q(state=SubmissionState.JUDGED) & ~Q(next_step=NextStep.NONE)
    return Q(state__in=UNDECIDED) | to_reserve | Q(runs__state__in=UNFINISHED)


def _open_on_old_trees(lineage: Lineage) -> list[UUID]:
    """Open submissions whose base has an older layout, in sealed order."""
    found = Submission.objects.filter(_is_open(), bounty__lineage=lineage).order_by("sealed_at").distinct()
    rows = found.values_list("pk", "base_tree", "sealed_at")
    return [pk for pk, tree, _ in rows if not has_present_layout(tree)]


def _end(submission_id: UUID, actor: User) -> Outcome:
    """End one open submission on an older tree, or keep its booked award."""
    with transaction.atomic():
        require_running(Switch.AWARDS)
        # The lineage's lock is taken first, as in merging and booking.
        lineage_id = find_submission(submission_id).bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        advance_submission(submission_id=submission_id)  # completed measurements count
        submission = find_submission(submission_id)
        if not Submission.objects.filter(_is_open(), pk=submission_id).exists():
            return Outcome.DECIDED
        end_runs(submission, WHY, actor)
        award = standing_award(submission)
        is_booked = award is not None and award.state == AwardState.UNVESTED
        is_undecided = submission.state in UNDECIDED or submission.next_step != NextStep.NONE
        if is_undecided and not is_booked:
            end_uncounted(submission, reason=f"{MOVED} {SUBMIT_AGAIN}", void=WHY, actor=actor)
        elif is_undecided and award is not None:
            _confirm_as_measured(submission, award, actor)
        else:
            reason = f"{WHY}: its open run was cancelled; the decision is unchanged"
            note(submission, old=submission.state, new=submission.state, reason=reason, actor=actor)
    follow_funds(bounty=submission.bounty)
    return Outcome.ENDED if is_undecided and not is_booked else Outcome.KEPT


def _confirm_as_measured(submission: Submission, award: Award, actor: User) -> None:
    """Cancel the order of a new price: the booked award stays, for its measured candidate."""
    priced = award.confirmation_run
    assert priced is not None, "a booked award is confirmed"
    move(
        submission,
        to=SubmissionState.CONFIRMED,
        reason=f"{WHY}: the new price was cancelled; the award is kept as it was measured",
        actor=actor,
        verdict_kind=priced.verdict.kind,
        verdict_reason=priced.verdict.reason,
        verdict_run=priced,
        candidate_tree=priced.candidate_tree,
        base_tree=priced.candidate_tree.parent or submission.base_tree,
    )


def _reproductions_on_old_trees(lineage: Lineage) -> list[UUID]:
    waiting = Reproduction.objects.filter(bounty__lineage=lineage, state=ReproductionState.QUEUED)
    rows = waiting.order_by("sealed_at", "pk").values_list("pk", "tree")
    return [pk for pk, tree in rows if not has_present_layout(tree)]


def _end_reproduction(reproduction_id: UUID, actor: User) -> bool:
    """Cancel a reproduction's run, without counting an attempt. False if it already has its verdict."""
    with transaction.atomic():
        run = (
            Run.objects.select_for_update(of=("self",))
            .filter(reproduction=reproduction_id, kind=RunKind.REPRODUCTION, state__in=UNFINISHED)
            .first()
        )
        if run is not None:
            move(run, to=RunState.LOST, reason=WHY, actor=actor)
            end_lost(run=run, reason=WHY, text=f"{MOVED} {SEND_AGAIN}", actor=actor)
    fault_point("control.renewal_reproduction_ended")
    settle(reproduction_id=reproduction_id)
    return run is not None


def _move_tip(lineage_id: int, shipped: StoredTree, actor: User) -> str:
    """Begin a lineage of an older layout again at the shipped tree; its tip afterwards."""
    with transaction.atomic():
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        old = lineage.tip_id
        if has_present_layout(old):
            return old
        is_moved = Lineage.objects.filter(pk=lineage_id, tip=old).update(tip=shipped, origin=shipped)
        assert is_moved, "the lineage's row is locked"
        reason = f"renewed: {WHY}, so the lineage begins again at the shipped tree (it began at {lineage.origin_id})"
        note(lineage, old=old, new=shipped.pk, reason=reason, actor=actor)
        wake_left_behind(lineage_id=lineage_id)
    return shipped.pk
