"""The device of the pool that a runner measures on. A maintainer sets it; a runner never says it itself."""

from django.db import IntegrityError, transaction

from bounty.errors import BadRequest, WrongState
from bounty.models import OPEN_RUN_STATES, Run, Runner, RunnerState
from bounty.services.permissions import require_maintainer
from bounty.services.runners.lending import lender
from bounty.services.runners.maintenance import find_runner
from bounty.services.transitions import note
from gainshare.accounts.models import User

MAX_DEVICE = 255


def set_device(*, actor: User, name: str, host: str, device: int = 0, reason: str) -> Runner:
    """Say on which host's device a runner measures; an empty ``host``: on none of the pool's.

    Raises NotAllowed, NotFound, BadRequest, and WrongState while it has a run, or if another runner has the device.
    """
    require_maintainer(actor, "manage runners")
    if not reason.strip():
        raise BadRequest("Give a reason; it is recorded in the runner's history.")
    host_id = lender().find_host(host) if host else None
    if host and host_id is None:
        raise BadRequest("The pool has no host with this name. See `gainshare pool` for all names.")
    if not 0 <= device <= MAX_DEVICE:
        raise BadRequest(f"A device is its number on the host, from 0 to {MAX_DEVICE}.")
    number = device if host_id is not None else None
    try:
        with transaction.atomic():
            runner = Runner.objects.select_for_update(no_key=True).get(pk=find_runner(name).pk)
            _require_idle(runner)
            if (runner.device_host, runner.device_number) == (host_id, number):
                return runner
            lender().give_back(runner.pk, "a maintainer set the runner's device")
            runner.device_host, runner.device_number = host_id, number
            runner.save(update_fields=["device_host", "device_number"])
            place = f"device {number} of {host}" if host else "no device of the pool"
            note(
                runner,
                old=runner.state,
                new=runner.state,
                reason=f"measures on {place}: {reason}",
                actor=actor,
            )
    except IntegrityError:
        raise WrongState(
            "Another runner measures on this device. Retire it, or take the device from it first."
        ) from None
    return runner


def _require_idle(runner: Runner) -> None:
    if runner.state == RunnerState.RETIRED:
        raise WrongState("A retired runner gets no runs, so it has no device.")
    if Run.objects.filter(runner=runner, state__in=OPEN_RUN_STATES).exists():
        raise WrongState("The runner has a run. Drain it first; then its device can be changed.")


def host_of(runner: Runner) -> str:
    """Name of the host of the runner's device; empty if it has none in the pool."""
    return "" if runner.device_host is None else lender().host_name(runner.device_host)
