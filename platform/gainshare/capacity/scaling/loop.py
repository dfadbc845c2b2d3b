"""The control loop: one pass for each served model observes, decides, records and has an actuator act.

A pass is one transaction under the model's advisory lock: after a kill -9 at any place either all of it is there or
nothing, and two workers never order for the same need. What happens outside the database (a Ray cluster) follows after
the transaction, and compares what is there with what is wanted each time.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction

from benchmarks.faults import fault_point
from gainshare.capacity.models import Decision, ScalingState, ServedModel
from gainshare.capacity.scaling.actuators.registry import actuator_of
from gainshare.capacity.scaling.decide import decide, policy_of
from gainshare.capacity.scaling.locks import lock_pass
from gainshare.capacity.scaling.observe import observe
from gainshare.capacity.scaling.records import MAX_CHARS, record, state_of

logger = logging.getLogger(__name__)


def scale_all(now: datetime) -> int:
    """One pass for each served model. A model whose pass fails is logged and does not stop the others."""
    passed = 0
    for served_id in ServedModel.objects.order_by("pk").values_list("pk", flat=True):
        try:
            scale(served_id, now)
            passed += 1
        except Exception as error:  # any policy's or engine's failure is that model's alone
            logger.exception("scaling of the served model %s failed", served_id)
            _note_problem(served_id, f"the last pass failed: {type(error).__name__}: {error}")
    return passed


def scale(served_id: int, now: datetime) -> Decision | None:
    """One pass for one model. Returns the decision if one was recorded; None also while another process has the pass."""

    with transaction.atomic():
        if not lock_pass(served_id):
            return None
        served = ServedModel.objects.get(pk=served_id)
        row = state_of(served)
        observed = observe(served, now)
        decided = decide(served, observed, row.state if row.policy == policy_of(served) else {})
        fault_point("capacity.scaling.decided")
        actuator = actuator_of(served)
        outcome = actuator.carry_out(served, decided.wanted, decided.reason)
        fault_point("capacity.scaling.carried_out")
        decision = record(served, row, decided, observed, outcome)
        fault_point("capacity.scaling.recorded")
    fault_point("capacity.scaling.committed")
    if problem := actuator.settle(served, decided.wanted):
        _note_problem(served_id, problem)
    return decision


def _note_problem(served_id: int, problem: str) -> None:
    ScalingState.objects.filter(served=served_id).update(problem=problem[:MAX_CHARS])
