"""State changes: one conditional UPDATE and one row of history in the same transaction.

If two callers make the same change at once, one gets True and the other False, and it happens once.
"""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import Q

from bounty.errors import WrongState
from bounty.models import (
    Award,
    AwardState,
    Bounty,
    BountyState,
    Dispute,
    DisputeState,
    Head,
    Repricing,
    RepricingState,
    Reproduction,
    ReproductionState,
    Run,
    Runner,
    RunnerState,
    RunState,
    StateChange,
    Submission,
    SubmissionState,
)
from bounty.services.wakeups import wake_report
from gainshare.accounts.models import User

S, R, A, B, D = SubmissionState, RunState, AwardState, BountyState, DisputeState

SUBMISSION_MOVES: Mapping[str, frozenset[str]] = {
    S.RECEIVED: frozenset({S.CHECKED, S.REJECTED}),
    # rejected: a copy, as soon as its original is decided
    S.CHECKED: frozenset({S.QUEUED, S.REJECTED, S.WITHDRAWN}),
    S.REJECTED: frozenset({S.QUEUED}),  # a maintainer has a supposed copy judged
    S.QUEUED: frozenset({S.JUDGING, S.JUDGED, S.WITHDRAWN}),
    S.JUDGING: frozenset({S.JUDGED, S.WITHDRAWN}),
    # queued: a maintainer orders the gate again after a suspicious or failed run
    # confirmed: a maintainer overturns a doubt about a booked gain
    S.JUDGED: frozenset({S.CONFIRMING, S.CONFIRMED, S.DECLINED, S.QUEUED, S.WITHDRAWN}),
    S.CONFIRMING: frozenset({S.CONFIRMED, S.JUDGED, S.WITHDRAWN}),
    # confirming: priced again, because the best tree moved or a maintainer ordered it. judged: the diff does
    # not apply
    # to the new tip, or a random re-measurement did not find the gain again
    S.CONFIRMED: frozenset({S.ACCEPTED, S.CONFIRMING, S.JUDGED, S.DECLINED}),
    S.ACCEPTED: frozenset({S.VESTED, S.CONFIRMING, S.JUDGED, S.DECLINED}),
    S.DECLINED: frozenset(),
    S.VESTED: frozenset({S.REVERSED}),
    S.REVERSED: frozenset({S.VESTED}),  # its code landed again, and a maintainer restored the award
    S.WITHDRAWN: frozenset(),
}
RUN_MOVES: Mapping[str, frozenset[str]] = {
    R.QUEUED: frozenset({R.LEASED, R.LOST}),
    R.LEASED: frozenset({R.PREPARING, R.GATING, R.MEASURING, R.FINISHED, R.LOST}),
    R.PREPARING: frozenset({R.GATING, R.MEASURING, R.FINISHED, R.LOST}),
    R.GATING: frozenset({R.MEASURING, R.FINISHED, R.LOST}),
    R.MEASURING: frozenset({R.FINISHED, R.LOST}),
    R.LOST: frozenset({R.QUEUED, R.FINISHED}),
    R.FINISHED: frozenset(),
}
AWARD_MOVES: Mapping[str, frozenset[str]] = {
    A.RESERVED: frozenset({A.UNVESTED, A.VOID}),
    A.UNVESTED: frozenset({A.VESTED, A.VOID}),
    A.VESTED: frozenset({A.RETURNED, A.REVERSED}),
    A.RETURNED: frozenset({A.REVERSED}),
    # restored: by another transfer, or without one where the credits had returned unclaimed before
    A.REVERSED: frozenset({A.VESTED, A.RETURNED}),
    A.VOID: frozenset(),
}
BOUNTY_MOVES: Mapping[str, frozenset[str]] = {
    B.OPEN: frozenset({B.EXHAUSTED, B.CLOSED}),
    B.EXHAUSTED: frozenset({B.OPEN, B.CLOSED}),
    B.CLOSED: frozenset(),
}
DISPUTE_MOVES: Mapping[str, frozenset[str]] = {
    D.OPEN: frozenset({D.UPHELD, D.REMEASURED, D.OVERTURNED}),
    D.UPHELD: frozenset(),
    D.REMEASURED: frozenset(),
    D.OVERTURNED: frozenset(),
}
REPRODUCTION_MOVES: Mapping[str, frozenset[str]] = {
    ReproductionState.QUEUED: frozenset({ReproductionState.REPRODUCED, ReproductionState.REFUSED}),
    ReproductionState.REPRODUCED: frozenset({ReproductionState.ADOPTED, ReproductionState.DECLINED}),
    ReproductionState.ADOPTED: frozenset({ReproductionState.DECLINED}),
    ReproductionState.REFUSED: frozenset(),
    ReproductionState.DECLINED: frozenset(),
}
REPRICING_MOVES: Mapping[str, frozenset[str]] = {
    RepricingState.WAITING: frozenset({RepricingState.MEASURING, RepricingState.UNCHANGED}),
    RepricingState.MEASURING: frozenset({RepricingState.PAID, RepricingState.UNCHANGED}),
    RepricingState.PAID: frozenset(),
    RepricingState.UNCHANGED: frozenset(),
}
RUNNER_MOVES: Mapping[str, frozenset[str]] = {
    RunnerState.ACTIVE: frozenset({RunnerState.DRAINING, RunnerState.QUARANTINED, RunnerState.RETIRED}),
    # A runner that was quarantined while it drained is still quarantined when it is resumed.
    RunnerState.DRAINING: frozenset(
        {RunnerState.DRAINED, RunnerState.ACTIVE, RunnerState.QUARANTINED, RunnerState.RETIRED}
    ),
    RunnerState.DRAINED: frozenset({RunnerState.ACTIVE, RunnerState.QUARANTINED, RunnerState.RETIRED}),
    RunnerState.QUARANTINED: frozenset({RunnerState.ACTIVE, RunnerState.DRAINING, RunnerState.RETIRED}),
    RunnerState.RETIRED: frozenset(),
}
MOVES: Mapping[type, Mapping[str, frozenset[str]]] = {
    Submission: SUBMISSION_MOVES,
    Run: RUN_MOVES,
    Award: AWARD_MOVES,
    Bounty: BOUNTY_MOVES,
    Runner: RUNNER_MOVES,
    Dispute: DISPUTE_MOVES,
    Reproduction: REPRODUCTION_MOVES,
    Repricing: REPRICING_MOVES,
}

StatefulRow = Submission | Run | Award | Bounty | Runner | Dispute | Reproduction | Repricing


def move(
    row: StatefulRow,
    *,
    to: str,
    reason: str,
    actor: User | None = None,
    where: Q | None = None,
    **fields: Any,
) -> bool:
    """Change ``row`` from the state it was read in to ``to``, writing ``fields`` with it.

    False if the row has another state meanwhile, or ``where`` does not hold: then nothing was written and the caller
    reads again. On True the row in memory is up to date. Raises ValueError for a change that no state machine allows.
    """
    model = type(row)
    old = str(row.state)
    if to not in MOVES[model][old]:
        raise ValueError(f"a {model.__name__.lower()} never goes from {old} to {to}")
    condition = Q(pk=row.pk, state=old) if where is None else Q(pk=row.pk, state=old) & where
    with transaction.atomic():
        if not model._default_manager.filter(condition).update(state=to, **fields):
            return False
        note(row, old=old, new=to, reason=reason, actor=actor)
    row.state = to
    for name, value in fields.items():
        setattr(row, name, value)
    return True


def must_move(row: StatefulRow, *, to: str, reason: str, actor: User | None = None, **fields: Any) -> None:
    """Like `move`, but raises WrongState if the row has changed meanwhile."""
    if not move(row, to=to, reason=reason, actor=actor, **fields):
        raise WrongState("The submission changed while you acted on it. Reload it and try again.")


def note(row: Any, *, old: str, new: str, reason: str, actor: User | None = None) -> None:
    """Write one row of history, for changes without a state machine and for new rows.

    The pull request that the row's submission came from, if it came from one, is told of it after the commit.
    """
    StateChange.objects.create(
        subject=type(row).__name__.lower(),
        subject_id=str(row.pk),
        old=old,
        new=new,
        reason=reason,
        actor=actor,
    )
    wake_report_of(row)


def wake_report_of(row: Any) -> None:
    """Have the pull request told, where the change belongs to one of its heads: one indexed query, and none for other rows."""
    if not isinstance(row, Submission | Award | Dispute | Repricing):
        return
    submission_id = row.pk if isinstance(row, Submission) else row.submission_id
    pull_request_id = (
        Head.objects.filter(submission=submission_id).values_list("pull_request", flat=True).first()
    )
    if pull_request_id is not None:
        wake_report(pull_request_id=pull_request_id)


def history(row: Any) -> list[StateChange]:
    """Every change of this row, oldest first."""
    return list(StateChange.objects.filter(subject=type(row).__name__.lower(), subject_id=str(row.pk)))
