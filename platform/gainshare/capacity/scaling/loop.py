"""The control loop: one pass for each served model observes, decides, records and has an actuator act.

A pass is one transaction under the model's advisory lock: after a kill -9 at any place either all of it is there or
nothing, and two workers never order for the same need. What happens outside the database (a Ray cluster) is settled
separately, and compares what is there with what should be each time.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction

from benchmarks.faults import fault_point
from gainshare.capacity.models import Decision, ServedModel
from gainshare.capacity.scaling.actuators.interface import Plan
from gainshare.capacity.scaling.actuators.registry import actuator_of
from gainshare.capacity.scaling.decide import decide
from gainshare.capacity.scaling.locks import lock_engine, lock_pass
from gainshare.capacity.scaling.observe import observe
from gainshare.capacity.scaling.records import MAX_CHARS, note, record, state_of

logger = logging.getLogger(__name__)


def scale_all(now: datetime) -> int:
    """One pass for each served model. A model whose pass fails is logged and does not stop the others."""
    passed = 0
    for served_id in _served():
        try:
            scale(served_id, now)
            passed += 1
        except Exception as error:  # a policy's failure is its model's alone
            logger.exception("the pass of the served model %s failed", served_id)
            note(served_id, failure=_failure(error))
    return passed


def settle_all(now: datetime) -> int:
    """Let the actuators of all served models talk to their engines outside, each as often as it needs to."""
    settled = 0
    for served_id in _served():
        try:
            settle(served_id, now)
            settled += 1
        except Exception as error:  # an engine's failure is its models' alone
            logger.exception("the engine of the served model %s failed", served_id)
            note(served_id, engine_failure=_failure(error))
    return settled


def scale(served_id: int, now: datetime) -> Decision | None:
    """One pass for one model. Returns the decision if one was recorded; None also while another process has the pass."""
    with transaction.atomic():
        if not lock_pass(served_id):
            return None
        served = ServedModel.objects.get(pk=served_id)
        row = state_of(served)
        observed = observe(served, now)
        decided = decide(served, observed, row)
        fault_point("capacity.scaling.decided")
        outcome = actuator_of(served).carry_out(served, Plan(decided.wanted, decided.reason, decided.payable))
        fault_point("capacity.scaling.carried_out")
        decision = record(served, row, decided, observed, outcome)
        fault_point("capacity.scaling.recorded")
    return decision


def settle(served_id: int, now: datetime) -> None:
    """Let the model's actuator compare what its engine has with what it should have."""
    with transaction.atomic():
        if lock_engine(served_id):
            served = ServedModel.objects.get(pk=served_id)
            actuator_of(served).settle(served, now)


def _served() -> list[int]:
    return list(ServedModel.objects.order_by("pk").values_list("pk", flat=True))


def _failure(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_CHARS]
