"""Writes decisions down, and forgets repeats after a while."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta

from gainshare.capacity.models import Decision, ScalingState, ServedModel
from gainshare.capacity.scaling.actuators.interface import Outcome
from gainshare.capacity.scaling.decide import Decided
from gainshare.capacity.scaling.observe import Observed

REPEAT = timedelta(minutes=1)  # how often an unchanged decision is recorded again, with its load
KEPT = timedelta(days=14)  # how long such repeats are kept; changes are kept for good
MAX_CHARS = 300


def state_of(served: ServedModel) -> ScalingState:
    """The model's row, created at first need. The caller holds the model's lock."""
    return ScalingState.objects.get_or_create(served=served)[0]


def note(served_id: int, **fields: str) -> None:
    """Keep what failed for people to see; the next success empties it."""
    ScalingState.objects.update_or_create(served_id=served_id, defaults=fields)


def record(
    served: ServedModel, row: ScalingState, decided: Decided, observed: Observed, outcome: Outcome
) -> Decision | None:
    """Store the policy's state, and a decision if anything changed or the last one is old. Returns the new one."""
    reason = "; ".join(part for part in (decided.reason, decided.note) if part)[:MAX_CHARS]
    problem = outcome.problem[:MAX_CHARS]
    is_change = (
        row.passed_at is None
        or row.wanted != decided.wanted
        or row.policy != decided.policy
        or row.problem != problem
        or bool(outcome.actions)
    )
    decision = None
    if is_change or _is_due(served, observed.at):
        decision = Decision.objects.create(
            served=served,
            policy=decided.policy,
            reason=reason,
            before=row.wanted,
            wanted=decided.wanted,
            inputs=observed.as_json(),
            actions=[asdict(action) for action in outcome.actions],
            problem=problem,
            is_change=is_change,
            created_at=observed.at,
        )
    row.policy, row.state, row.wanted = decided.policy, dict(decided.state), decided.wanted
    row.reason, row.problem, row.passed_at, row.failure = decided.reason[:MAX_CHARS], problem, observed.at, ""
    row.asked_at = observed.at if decided.is_new else row.asked_at
    row.save(
        update_fields=["policy", "state", "wanted", "reason", "problem", "passed_at", "asked_at", "failure"]
    )
    return decision


def forget_repeats(now: datetime) -> int:
    """Delete old decisions that changed nothing; returns how many."""
    return Decision.objects.filter(is_change=False, created_at__lt=now - KEPT).delete()[0]


def _is_due(served: ServedModel, now: datetime) -> bool:
    last = Decision.objects.filter(served=served).values_list("created_at", flat=True).first()
    return last is None or now - last >= REPEAT
