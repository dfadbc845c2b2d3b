"""Devices on loan: a runner on a device of the pool that serves as well measures only while it has the device on loan.

The pool lends through an interface that settings name. A loan is taken in the transaction that leases the run, renewed
by heartbeats, and given back after the run, or between two pairs when the pool recalls it.
"""

from typing import Protocol, cast
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from benchmarks.faults import fault_point
from bounty.errors import NotOffered
from bounty.models import OPEN_RUN_STATES, Run, Runner
from bounty.services.runners.failures import note_failure
from bounty.services.runs.lifecycle import lose_run


class Lender(Protocol):
    """What bounty asks of the pool. Hosts and runners are ids, a device is its number on the host."""

    def find_host(self, name: str) -> UUID | None: ...

    def host_name(self, host_id: UUID) -> str: ...

    def is_needed(self, host_id: UUID) -> bool: ...

    def take(self, host_id: UUID, device: int, runner_id: UUID) -> bool: ...

    def renew(self, host_id: UUID, device: int, runner_id: UUID) -> float | None: ...

    def recall_reason(self, runner_id: UUID) -> str | None: ...

    def give_back(self, runner_id: UUID, reason: str) -> bool: ...


def lender() -> Lender:
    """The pool that lends."""
    return cast(Lender, import_string(settings.DEVICE_LENDER)())


def borrows(runner: Runner) -> bool:
    """Whether the runner needs its device on loan."""
    return runner.device_host is not None and lender().is_needed(runner.device_host)


def borrow(runner: Runner) -> None:
    """Take the runner's device on loan, if it needs one, in the transaction that leases its run. Raises NotOffered."""
    if runner.device_host is None or runner.device_number is None or not borrows(runner):
        return
    if not lender().take(runner.device_host, runner.device_number, runner.pk):
        raise NotOffered(
            "This runner's device is not on offer: it serves a model, or serving will want it soon. The runner is woken "
            "again."
        )
    fault_point("loans.taken")


def keep(runner: Runner) -> float | None:
    """Renew the runner's loan: seconds in which it must give its device back, None if it may go on."""
    if runner.device_host is None or runner.device_number is None or not borrows(runner):
        return None
    return lender().renew(runner.device_host, runner.device_number, runner.pk)


def give_back(*, runner: Runner) -> bool:
    """Return the device of a runner that has stopped; a run that it still had is queued again. False: it had no loan.

    After a recall the run's attempt is forgiven, and its pairs are kept. Repeating it changes nothing.
    """
    if runner.device_host is None:
        return False
    with transaction.atomic():
        recalled = lender().recall_reason(runner.pk)
        if recalled is None and not borrows(runner):
            return False
        if recalled is None:
            recalled = "the device needs a loan from now on"  # since the run began
        reason = f"its device was recalled: {recalled}" if recalled else "its runner gave its device back"
        for run in Run.objects.filter(runner=runner, state__in=OPEN_RUN_STATES):
            lose_run(run=run, reason=reason, is_forgiven=bool(recalled))
        fault_point("loans.run_given_back")
        return lender().give_back(runner.pk, reason if recalled else "the run is over")


def end_runs(runner_id: UUID, reason: str) -> None:
    """End what the runner measures, because its device is taken from it. The attempt counts against the runner only.

    Whatever the runner posts under this lease from now on is refused. Named in settings as DEVICE_BORROWER.
    """
    for run in Run.objects.filter(runner=runner_id, state__in=OPEN_RUN_STATES).select_related("runner"):
        if lose_run(run=run, reason=reason, is_forgiven=True):
            note_failure(run=run, reason=reason)
