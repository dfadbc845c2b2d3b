"""Asks the policy of a served model, and holds its answer within the classes and the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gainshare.capacity.models import PolicyName, ServedModel
from gainshare.capacity.policies.observed import Wanted
from gainshare.capacity.policies.registry import POLICIES
from gainshare.capacity.scaling.budget import within_budget
from gainshare.capacity.scaling.manual import MANUAL, manual_counts
from gainshare.capacity.scaling.observe import Observed


@dataclass(frozen=True, slots=True)
class Decided:
    """Counts to carry out. ``note`` says what was cut from the policy's own answer."""

    policy: str
    wanted: dict[str, int]
    reason: str
    note: str = ""
    state: Mapping[str, object] = field(default_factory=dict)


def policy_of(served: ServedModel) -> str:
    """Name of who decides: a maintainer's fixed count, or a policy."""
    is_manual = not served.is_automatic or served.policy == PolicyName.FIXED
    return MANUAL if is_manual else str(served.policy)


def decide(served: ServedModel, observed: Observed, state: Mapping[str, object]) -> Decided:
    """The wanted counts of every class that the model may use or still has nodes of; ``state`` is of the same policy."""
    policy = policy_of(served)
    answer = (
        manual_counts(served.fixed_nodes, observed.classes)
        if policy == MANUAL
        else POLICIES[policy](
            observed.at.timestamp(),
            observed.load,
            observed.fleets,
            observed.classes,
            observed.objective,
            state,
        )
    )
    wanted, note = within_budget(
        allowed(answer, observed),
        fleets=observed.fleets,
        classes=observed.classes,
        left=observed.objective.budget_left_today,
        day_ends_in_s=observed.day_ends_in_s,
    )
    return Decided(policy=policy, wanted=wanted, reason=answer.reason, note=note, state=answer.state)


def allowed(answer: Wanted, observed: Observed) -> dict[str, int]:
    """The answer within each class's limit. A class that the model no longer uses is wanted no more."""
    most = {facts.name: facts.max_nodes for facts in observed.classes}
    return {
        name: min(max(answer.nodes.get(name, 0), 0), most.get(name, 0))
        for name in sorted(set(most) | set(observed.fleets))
    }
