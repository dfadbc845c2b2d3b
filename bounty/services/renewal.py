"""After the stack's layout changed: lineages begin again at the shipped tree, and what was open on older trees ends.

Trees of an older layout cannot be measured. An open submission ends without an attempt and its reservation returns;
a booked award stands and vests as it was measured. Everything is a step of its own that can be repeated, and the tip
moves last: a renewal that was interrupted is finished by the next one.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from benchmarks.faults import fault_point
from bounty.errors import NotAllowed
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
from bounty.services.advance import advance_submission
from bounty.services.awards import standing_award
from bounty.services.bounties import follow_funds
from bounty.services.emergency import require_running
from bounty.services.remeasure import end_runs, end_uncounted
from bounty.services.reproductions import settle
from bounty.services.runs.lifecycle import end_lost
from bounty.services.series import wake_left_behind
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
    "A new version of the platform moved modules of model/, and this was made for a tree of the layout before, which "
    "cannot be measured any more."
)
SUBMIT_AGAIN = (
    "Make the diff against the bounty's current tree and submit it again; this does not count as an attempt."
)
SEND_AGAIN = "Send the reproduction again, to be tried on the bounty's current tree; this does not count as an attempt."


class Outcome(StrEnum):
    """What became of one submission on an older tree."""

    ENDED = "ended"  # without an attempt; its reservation went back to escrow
    KEPT = "kept"  # a run was cancelled, the booked award stands
    DECIDED = "decided"  # all that it waited for had been measured already


@dataclass(frozen=True, slots=True)
class LineageRenewal:
    """What was done for one lineage. ``old_tip`` and ``tip`` are equal where the tip did not move."""

    lineage: str
    old_tip: str
    tip: str
    ended: tuple[UUID, ...]  # submissions that ended without an attempt
    kept: tuple[UUID, ...]  # submissions whose booked award stands, though a run of theirs was cancelled
    reproductions: tuple[UUID, ...]  # that could not be tried any more

    @property
    def has_changes(self) -> bool:
        return self.old_tip != self.tip or bool(self.ended or self.kept or self.reproductions)


@dataclass(frozen=True, slots=True)
class Renewal:
    """What one call did. Lineages that needed nothing are left out."""

    shipped_tree: str
    cancelled_calibrations: int
    lineages: tuple[LineageRenewal, ...]


def renew_lineages(*, actor: User) -> Renewal:
    """Begin every lineage of an older layout again at the shipped tree, and end what is open on older trees.

    Raises NotAllowed; Stopped while awards are stopped, since a gain that was measured completely is booked first;
    OldLayout where the installed stack itself lacks what the judge imports. Repeating changes nothing.
    """
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer renews lineages.")
    require_running(Switch.AWARDS)
    shipped = find_tree(SHIPPED)
    require_present_layout(
        shipped.pk, instead="It is the installed stack's: the installation is not complete."
    )
    cancelled = _cancel_calibrations(actor)
    renewals = [_renew(lineage, shipped, actor) for lineage in Lineage.objects.order_by("name")]
    return Renewal(shipped.pk, cancelled, tuple(renewal for renewal in renewals if renewal.has_changes))


def outdated_lineages() -> list[Lineage]:
    """Lineages whose tip has an older layout: nothing is judged in them until they are renewed."""
    return [lineage for lineage in Lineage.objects.order_by("name") if not has_present_layout(lineage.tip_id)]


def _cancel_calibrations(actor: User) -> int:
    """Take back A/A runs of older trees. They do not count as tried: the next ones are due at once."""
    runs = Run.objects.filter(kind=RunKind.AA, state__in=UNFINISHED)
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
    """What still waits for a measurement: undecided, or with a run that has not ended."""
    to_reserve = Q(state=SubmissionState.JUDGED) & ~Q(next_step=NextStep.NONE)
    return Q(state__in=UNDECIDED) | to_reserve | Q(runs__state__in=UNFINISHED)


def _open_on_old_trees(lineage: Lineage) -> list[UUID]:
    """Open submissions whose base has an older layout, in the order in which they were sealed."""
    found = Submission.objects.filter(_is_open(), bounty__lineage=lineage).order_by("sealed_at").distinct()
    rows = found.values_list("pk", "base_tree", "sealed_at")
    return [pk for pk, tree, _ in rows if not has_present_layout(tree)]


def _end(submission_id: UUID, actor: User) -> Outcome:
    """End one open submission on an older tree, or keep its booked award."""
    with transaction.atomic():
        require_running(Switch.AWARDS)
        # As in merging and booking, the lineage's lock comes first.
        lineage_id = find_submission(submission_id).bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        advance_submission(submission_id=submission_id)  # what was measured in time counts
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
            reason = f"{WHY}: its open run was cancelled, and what was decided stands"
            note(submission, old=submission.state, new=submission.state, reason=reason, actor=actor)
    follow_funds(bounty=submission.bounty)
    return Outcome.ENDED if is_undecided and not is_booked else Outcome.KEPT


def _confirm_as_measured(submission: Submission, award: Award, actor: User) -> None:
    """Undo the order of a new price: the booked award stands, for the candidate that it was measured with."""
    priced = award.confirmation_run
    assert priced is not None, "a booked award is confirmed"
    move(
        submission,
        to=SubmissionState.CONFIRMED,
        reason=f"{WHY}: the new price was cancelled, the award stands as it was measured",
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
    """Cancel the run of a reproduction that cannot be tried any more; it is no attempt. False if it has its verdict."""
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
