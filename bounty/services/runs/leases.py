"""Who holds a run now. A lease is a UUID that its runner repeats with everything it sends."""

from uuid import UUID

from bounty.errors import LeaseLost, NotFound
from bounty.models import OPEN_RUN_STATES, Run


def require_lease(*, run_id: UUID, lease: UUID, runner_id: UUID) -> Run:
    """The run, locked, if this runner holds it under this lease. Raises NotFound, LeaseLost.

    A lease that has run out but was not given to anybody yet still counts.
    """
    run = Run.objects.select_for_update().filter(pk=run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    if not holds(run, lease=lease, runner_id=runner_id) or run.state not in OPEN_RUN_STATES:
        raise LeaseLost("This lease no longer holds the run: stop, and wait for the next wake-up.")
    return run


def holds(run: Run, *, lease: UUID, runner_id: UUID) -> bool:
    """Whether this was the run's last lease, still open or not."""
    return run.lease == lease and run.runner_id == runner_id
