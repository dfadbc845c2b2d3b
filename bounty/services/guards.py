"""Guard rails before an award: one run after each price, which shows that nothing else got worse.

The judge takes the other suites, peak memory and load time from its own list; this only orders the run and reads it.
"""

from django.db import transaction

from benchmarks.faults import fault_point
from bounty.models import PRICING_KINDS, Run, RunKind, Submission, SubmissionState
from bounty.services.runs import queue_run


def pricing_run(submission: Submission) -> Run | None:
    """The newest run that may price the submission."""
    return submission.runs.filter(kind__in=PRICING_KINDS).order_by("-queued_at").first()


def guard_of(priced: Run) -> Run | None:
    """The guard run of this price, if it was ordered."""
    return Run.objects.filter(after=priced).first()


def order_guard(*, submission: Submission, priced: Run) -> bool:
    """Order the guard run of a confirmed price, once. False when it waits already, or no one waits for it."""
    with transaction.atomic():
        # Two workers that look at once: the second one waits here and then finds the run.
        locked = Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
        newest = pricing_run(locked)
        if locked.state != SubmissionState.CONFIRMING or newest is None or newest.pk != priced.pk:
            return False
        if guard_of(priced) is not None:
            return False
        queue_run(submission=submission, kind=RunKind.GUARD, base=priced.base_tree, after=priced)
    fault_point("control.guard_ordered")
    return False
