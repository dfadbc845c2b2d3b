"""Bar of a submission's stages from check to payment, each with time and figure; one stage until it is decided.

Before the decision there is only the stage "being judged". Runs and their results are shown afterwards, when
nothing can be measured again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    PRICING_KINDS,
    Award,
    AwardRole,
    AwardState,
    ReviewDecision,
    RunKind,
    StateChange,
    Submission,
    SubmissionState,
)
from bounty.pages.run_views import RunView
from bounty.services.access import is_decided
from bounty.services.awards.lifecycle import acceptances
from bounty.services.trees import has_present_layout
from gainshare.web.effect_text import change_text
from gainshare.web.formatting import format_credits

S = SubmissionState
DONE, FAILED, NOW, LATER = "done", "failed", "now", "later"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. ``state`` is done, failed, now or later; ``figure`` and ``note`` may be empty."""

    name: str
    state: str = LATER
    at: datetime | None = None
    figure: str = ""
    note: str = ""


def stage_bar(
    submission: Submission,
    *,
    views: Sequence[RunView],
    awards: Sequence[Award],
    changes: Sequence[StateChange],
) -> list[Stage]:
    """The stages that may be shown."""
    if submission.state == S.WITHDRAWN:
        return [Stage("Withdrawn", FAILED, _change(changes, S.WITHDRAWN))]
    if not is_decided(submission):
        return [Stage("Being judged", NOW, submission.sealed_at, note="since it was submitted")]
    measured = _fix(views) if submission.bounty.is_for_a_bug else _gain(views, awards)
    stages = [
        _check(submission, changes),
        *measured,
        _review(submission, changes),
        _merge(submission),
        _paid(submission, awards),
    ]
    return _ended(submission, stages) if submission.state == S.JUDGED else _up_to_the_failure(stages)


def _check(submission: Submission, changes: Sequence[StateChange]) -> Stage:
    if submission.state == S.REJECTED:
        words = submission.verdict_kind.replace("_", " ")
        return Stage("Check", FAILED, _change(changes, S.REJECTED), words)
    return Stage("Check", DONE, _change(changes, S.CHECKED), "passed")


def _gain(views: Sequence[RunView], awards: Sequence[Award]) -> list[Stage]:
    """Gate, confirmation and guard stages of the award, if there is one; re-measurements change nothing."""
    prices = {
        award.confirmation_run_id
        for award in awards
        if award.confirmation_run_id is not None and award.role != AwardRole.SUPPLEMENT
    }
    gate = _newest(views, (RunKind.GATE,))
    priced = _newest([view for view in views if not prices or view.run.pk in prices], PRICING_KINDS)
    after = [view for view in views if priced is not None and view.run.after_id == priced.run.pk]
    guard = _newest(after, (RunKind.GUARD,))
    lowest = _lowest(priced, views)
    return [
        _measured("Gate", gate, _estimate(gate), "median"),
        _measured("Confirm", lowest, _bound(lowest), "at least"),
        _measured("Guard", guard, guard.rails_held if guard is not None else "", "rails hold"),
    ]


def _lowest(priced: RunView | None, views: Sequence[RunView]) -> RunView | None:
    """The price, or the comparison after it whose bound is lower: that one counts."""
    if priced is None:
        return None
    compared = [
        view
        for view in views
        if view.run.kind == RunKind.COMPARISON
        and view.run.queued_at > priced.run.queued_at
        and view.run.candidate_tree_id == priced.run.candidate_tree_id
    ]
    return min([priced, *compared], key=lambda view: _bound_of(view) or 0)


def _fix(views: Sequence[RunView]) -> list[Stage]:
    tried = _newest(views, (RunKind.FIX,))
    return [_measured("Tried", tried, "", "")]


def _newest(views: Sequence[RunView], kinds: Iterable[str]) -> RunView | None:
    return next((view for view in views if view.run.kind in kinds), None)


def _measured(name: str, view: RunView | None, figure: str, note: str) -> Stage:
    """Stage of a run, with its figure if it has one, else its verdict."""
    if view is None:
        return Stage(name)
    is_good = view.verdict is not None and view.verdict.kind == VerdictKind.GAIN
    if not figure:
        figure, note = view.words, ""
    return Stage(name, DONE if is_good else FAILED, view.run.finished_at, figure, note)


def _estimate(view: RunView | None) -> str:
    value = view.verdict.log_ppm_estimate if view is not None and view.verdict is not None else None
    return "" if value is None else change_text(value)


def _bound_of(view: RunView | None) -> int | None:
    return view.verdict.log_ppm_bound if view is not None and view.verdict is not None else None


def _bound(view: RunView | None) -> str:
    value = _bound_of(view)
    return "" if value is None else change_text(value)


def _review(submission: Submission, changes: Sequence[StateChange]) -> Stage:
    if submission.state == S.DECLINED:
        return Stage("Review", FAILED, _change(changes, S.DECLINED), "declined")
    if submission.state not in (S.CONFIRMED, S.ACCEPTED, S.VESTED, S.REVERSED):
        return Stage("Review")
    last = submission.reviews.filter(
        decision=ReviewDecision.ACCEPT, candidate_tree=submission.candidate_tree_id
    ).last()
    accepted_at = _change(changes, S.ACCEPTED)
    if submission.state == S.REVERSED:
        return Stage("Review", DONE, accepted_at, "accepted")
    given, needed = acceptances(submission)
    if submission.state == S.CONFIRMED:
        return Stage(
            "Review", NOW, last.created_at if last else None, f"{given} of {needed}", "accepted so far"
        )
    return Stage("Review", DONE, accepted_at, f"{given} of {needed}", "accepted")


def _merge(submission: Submission) -> Stage:
    if submission.merged_at is not None:
        return Stage("Merge", DONE, submission.merged_at, "merged")
    is_next = submission.state in (S.ACCEPTED, S.VESTED)
    if is_next and not has_present_layout(submission.base_tree_id):
        return Stage("Merge", LATER, figure="not merged", note="older layout")
    return Stage("Merge", NOW if is_next else LATER, figure="waits" if is_next else "")


def _paid(submission: Submission, awards: Sequence[Award]) -> Stage:
    amount = sum(award.amount_microcredits or 0 for award in awards)
    if not amount:
        return Stage("Paid")
    credits_text = format_credits(amount)
    if submission.state == S.REVERSED:
        ended = max((award.ended_at for award in awards if award.ended_at is not None), default=None)
        return Stage("Paid", FAILED, ended, credits_text, "credits, taken back")
    if any(award.state == AwardState.RETURNED for award in awards):
        ended = max((award.ended_at for award in awards if award.ended_at is not None), default=None)
        return Stage("Paid", DONE, ended, credits_text, "credits, not claimed and returned to the escrow")
    if all(award.state == AwardState.VESTED for award in awards):
        at = max((award.vested_at for award in awards if award.vested_at is not None), default=None)
        return Stage("Paid", DONE, at, credits_text, _part_note(awards))
    return Stage("Paid", LATER, None, credits_text, f"{_part_note(awards)}, unvested until merged")


def _part_note(awards: Sequence[Award]) -> str:
    return (
        "credits, all that the escrow had"
        if any(award.is_partial and award.role != AwardRole.SUPPLEMENT for award in awards)
        else "credits"
    )


def _up_to_the_failure(stages: list[Stage]) -> list[Stage]:
    """Mark all stages after a failed one as not reached, whatever an earlier round of them found."""
    failed = next((place for place, stage in enumerate(stages) if stage.state == FAILED), len(stages))
    return [*stages[: failed + 1], *(Stage(stage.name) for stage in stages[failed + 1 :])]


def _ended(submission: Submission, stages: list[Stage]) -> list[Stage]:
    """Mark the stage at which a final verdict ended the submission, also if no run did."""
    if all(stage.state != FAILED for stage in stages):
        place = next(place for place, stage in enumerate(stages) if stage.state == LATER)
        is_gain = submission.verdict_kind == VerdictKind.GAIN
        words = "no award" if is_gain else submission.verdict_kind.replace("_", " ")
        stages[place] = Stage(stages[place].name, FAILED, submission.judged_at, words)
    return _up_to_the_failure(stages)


def _change(changes: Iterable[StateChange], state: str) -> datetime | None:
    """Time of the last change into this state."""
    return max((change.created_at for change in changes if change.new == state), default=None)
