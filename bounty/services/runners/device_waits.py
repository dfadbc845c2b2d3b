"""Runners that wait for their device: other work on the same machine holds it, so they ask for no run yet.

A runner says so again and again, which also is when it was last seen; its next request for work ends the wait.
"""

from django.utils import timezone

from bounty.limits import DEVICE_WAIT_ALIVE
from bounty.models import Runner


def note_device_wait(*, runner: Runner) -> None:
    """The runner waits for its device now; since when stays as it is while it says so again."""
    now = timezone.now()
    if not is_waiting(runner):
        runner.waits_for_device_since = now
    runner.last_seen_at = now
    Runner.objects.filter(pk=runner.pk).update(
        waits_for_device_since=runner.waits_for_device_since, last_seen_at=now
    )


def end_device_wait(*, runner: Runner) -> None:
    """The runner has its device."""
    if runner.waits_for_device_since is not None:
        runner.waits_for_device_since = None
        Runner.objects.filter(pk=runner.pk).update(waits_for_device_since=None)


def is_waiting(runner: Runner) -> bool:
    """Whether it waits for its device. What a runner said that is silent since then is not believed for long."""
    return (
        runner.waits_for_device_since is not None
        and runner.last_seen_at is not None
        and runner.last_seen_at >= timezone.now() - DEVICE_WAIT_ALIVE
    )
