"""Leases of runs. A lease is a UUID that its runner sends with every call."""

from uuid import UUID

from bounty.errors import LeaseLost, NotFound
from bounty.models import OPEN_RUN_STATES, Run

NOT_HELD = "This lease is no longer valid: another runner has the run, or it has ended. Stop and wait for the next wake-up."


def require_lease(*, run_id: UUID, lease: UUID, runner_id: UUID) -> Run:
    """Lock and return the run if this runner holds it under this lease. Raises NotFound, LeaseLost.

    An expired lease is valid until the run is taken from its runner.
    """
    run = Run.objects.select_for_update().filter(pk=run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    if not holds(run, lease=lease, runner_id=runner_id) or run.state not in OPEN_RUN_STATES:
        raise LeaseLost(NOT_HELD)
    return run


def holds(run: Run, *, lease: UUID, runner_id: UUID) -> bool:
    """Whether this was the run's last lease, still open or not."""
    return run.lease == lease and run.runner_id == runner_id
