"""Asks the policy of a served model, and holds its answer within the classes and the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gainshare.capacity.models import PolicyName, ScalingState, ServedModel
from gainshare.capacity.policies.observed import Wanted
from gainshare.capacity.policies.registry import POLICIES, TICKS_S
from gainshare.capacity.scaling.budget import Day, payable, within_budget
from gainshare.capacity.scaling.manual import MANUAL, manual_counts
from gainshare.capacity.scaling.observe import Observed


@dataclass(frozen=True, slots=True)
class Decided:
    """Counts to carry out.

    ``payable`` are counts that the day's budget still pays, wanted or not; None is no limit.
    ``note`` says what the budget left out of the policy's answer and what cannot be kept, ``is_new`` whether it was asked.
    """

    policy: str
    wanted: dict[str, int]
    reason: str
    note: str = ""
    state: Mapping[str, object] = field(default_factory=dict)
    is_new: bool = True
    payable: Mapping[str, int] | None = None


def policy_of(served: ServedModel) -> str:
    """Name of who decides: a maintainer's fixed count, or a policy."""
    is_manual = not served.is_automatic or served.policy == PolicyName.FIXED
    return MANUAL if is_manual else str(served.policy)


def decide(served: ServedModel, observed: Observed, row: ScalingState) -> Decided:
    """The wanted counts of every class that the model may use or still has nodes of.

    A policy is asked as often as it was published for; in between its last answer holds.
    """
    policy = policy_of(served)
    is_new = is_due(served, policy, observed, row)
    answer = _ask(served, policy, observed, row) if is_new else Wanted(row.wanted, row.reason, row.state)
    left = observed.objective.budget_left_today
    day = Day(observed.fleets, observed.prices, left, observed.day_ends_in_s)
    wanted, note = within_budget(allowed(answer, observed), day)
    most = payable(wanted, day)
    notes = "; ".join(part for part in (note, observed.unkept) if part)
    return Decided(policy, wanted, answer.reason, notes, answer.state, is_new, most)


def is_due(served: ServedModel, policy: str, observed: Observed, row: ScalingState) -> bool:
    """Whether the policy's tick has passed, a maintainer changed something, or requests wait and no node is there."""
    if policy == MANUAL or row.policy != policy or row.asked_at is None or served.updated_at > row.asked_at:
        return True
    has_nodes = any(fleet.ready or fleet.starting for fleet in observed.fleets.values())
    if observed.load.waiting and not has_nodes:
        return True
    return (observed.at - row.asked_at).total_seconds() >= TICKS_S[policy]


def _ask(served: ServedModel, policy: str, observed: Observed, row: ScalingState) -> Wanted:
    if policy == MANUAL:
        return manual_counts(served.fixed_nodes, observed.classes)
    state = row.state if row.policy == policy else {}
    return POLICIES[policy](
        observed.at.timestamp(), observed.load, observed.fleets, observed.classes, observed.objective, state
    )


def allowed(answer: Wanted, observed: Observed) -> dict[str, int]:
    """The answer within each class's limit. A class that the model no longer uses is wanted no more."""
    most = {facts.name: facts.max_nodes for facts in observed.classes}
    return {
        name: min(max(answer.nodes.get(name, 0), 0), most.get(name, 0))
        for name in sorted(set(most) | set(observed.fleets))
    }
