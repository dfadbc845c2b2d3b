"""Runners that wait for their device because other work on the same machine uses it.

A waiting runner repeats its report, which also updates when it was last seen. Its next request for work ends
the wait.
"""

from django.utils import timezone

from bounty.limits import DEVICE_WAIT_ALIVE
from bounty.models import Runner


def note_device_wait(*, runner: Runner) -> None:
    """Record that the runner waits for its device; a repeated report keeps the start of the wait."""
    now = timezone.now()
    if not is_waiting(runner):
        runner.waits_for_device_since = now
    runner.last_seen_at = now
    Runner.objects.filter(pk=runner.pk).update(
        waits_for_device_since=runner.waits_for_device_since, last_seen_at=now
    )


def end_device_wait(*, runner: Runner) -> None:
    """Record that the runner has its device."""
    if runner.waits_for_device_since is not None:
        runner.waits_for_device_since = None
        Runner.objects.filter(pk=runner.pk).update(waits_for_device_since=None)


def is_waiting(runner: Runner) -> bool:
    """Whether the runner waits for its device. A report expires if the runner does not repeat it."""
    return (
        runner.waits_for_device_since is not None
        and runner.last_seen_at is not None
        and runner.last_seen_at >= timezone.now() - DEVICE_WAIT_ALIVE
    )
