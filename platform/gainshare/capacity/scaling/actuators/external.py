"""Leaves hosts to something outside (KEDA, an HPA, a person) that reads the wanted counts, and uses what comes.

Agents register with their hosts' tokens by themselves. A node is ordered on each new device, up to the wanted count.
Nothing is drained here: who ends a host sends its agent SIGTERM, and the agent drains its nodes.
"""

from __future__ import annotations

from datetime import datetime

from gainshare.capacity.models import ServedModel
from gainshare.capacity.scaling.actuators.interface import Outcome, Plan
from gainshare.capacity.scaling.actuators.local import order_missing


class ExternalActuator:
    """Orders nodes on hosts that something outside has started."""

    name = "external"

    def carry_out(self, served: ServedModel, plan: Plan) -> Outcome:
        outcome = order_missing(served, plan)
        return Outcome(outcome.actions, "")  # hosts that have not come yet are not a problem of ours

    def settle(self, served: ServedModel, now: datetime) -> None:
        """There is no engine outside that has to be told anything."""
