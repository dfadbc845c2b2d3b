"""Taking runs back from runners that should not have them now: judging was stopped, or the runner is quarantined.

The run goes back into the queue and the attempt does not count. Its runner is told by the answer to its next heartbeat.
"""

from django.db.models import Q

from bounty.models import OPEN_RUN_STATES, QuarantineCause, Run, RunKind, Switch
from bounty.services.runs import lose_run
from bounty.services.switches import is_stopped


def recall_all(*, reason: str) -> int:
    """Every run that a runner has. How many there were."""
    return _recall(Q(), reason)


def recall_untrusted() -> int:
    """Runs at runners whose measurements are not trusted any more; an A/A run is what they are to do."""
    suspect = ~Q(runner__quarantine_cause=QuarantineCause.NONE) & ~Q(kind=RunKind.AA)
    return _recall(suspect, "its runner was quarantined")


def recall_forgotten() -> int:
    """What a process that died in the middle of a stop or a quarantine has left with runners."""
    if is_stopped(Switch.JUDGING):
        return recall_all(reason="judging was stopped")
    return recall_untrusted()


def _recall(which: Q, reason: str) -> int:
    runs = Run.objects.filter(which, state__in=OPEN_RUN_STATES)
    return sum(lose_run(run=run, reason=reason, is_forgiven=True) for run in runs)
