"""Earlier confirmations of one person against one base: what their other candidates had there, settled with a lease.

A bound that its author can give back (by ending the run, by being slow, by failing a guard rail) and draw again in another
form would be the luckiest of several. So the judge's bound depends on them (`benchmarks.statistics.earlier`), and the
evidence must state exactly what is settled here. Pairs of the same candidate are pooled instead (`pooling`).
"""

from typing import Any

from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    OPEN_RUN_STATES,
    PRICING_KINDS,
    Dispute,
    DisputeState,
    MeasuredPair,
    QuarantineCause,
    Run,
    RunKind,
    Submission,
    SubmissionState,
)
from bounty.services.access import is_decided
from bounty.services.runs.logs import say
from bounty.services.runs.prices import sets_price
from bounty.services.submissions import NOT_THEIR_FAULT

# First key of PostgreSQL's two-key advisory locks; the second one is the person.
_SPACE = 0x6763
_MOST_KEYS = 2**31


def settle_earlier(run: Run, *, base_before: str) -> None:
    """Settle what the attempt's evidence must state. Inside the transaction that leases the run, after it is leased.

    ``base_before`` is the base of the attempt before. The leases of one person's confirmations are serialised, so of two
    that start together one counts the other.
    """
    found = None
    if sets_price(run):
        assert run.submission is not None
        with connection.cursor() as cursor:
            person = run.submission.submitter_id % _MOST_KEYS
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_SPACE, person])
        first = _begun(run, base_before)
        found = earlier_confirmations(run) if first is None else first.earlier_confirmations
    run.earlier_confirmations = found
    run.save(update_fields=["earlier_confirmations"])
    if found is not None:
        say(run, f"{found['count']} other candidates had a confirmation against this base", is_sealed=True)


def _begun(run: Run, base_before: str) -> Run | None:
    """The submission's run that began the confirmation against this base which ``run`` continues; None where it begins one.

    Confirmations of others that began after it do not count as earlier.
    """
    pairs = MeasuredPair.objects.filter(
        run__submission=run.submission,
        run__kind__in=PRICING_KINDS,
        sealed__document__trees__base=run.base_tree_id,
    )
    pair = pairs.select_related("run").order_by("pk").first()
    if pair is None:
        return None
    base = base_before if pair.run_id == run.pk else pair.run.base_tree_id
    return pair.run if base == run.base_tree_id else None


def earlier_confirmations(run: Run) -> dict[str, Any] | None:
    """The count of the person's other candidates that had one, and their lowest bound, as the evidence states them.

    The bound is None where one of them had none above zero, or is not decided yet. None where there were none.
    """
    others = list(_others(run))
    if not others:
        return None
    bounds = [_lowest_bound(submission) for submission in others]
    known = [bound for bound in bounds if bound is not None]
    return {"count": len(others), "lowest_log_ppm": min(known) if len(known) == len(others) else None}


def _others(run: Run) -> QuerySet[Submission]:
    """The person's submissions of other candidates in the lineage whose confirmation against this base has begun.

    That is: it has a complete pair of a trusted runner, or is being measured now. Not those that ended as no one's fault.
    """
    submission = run.submission
    assert submission is not None
    pairs = MeasuredPair.objects.filter(run=OuterRef("pk"), runner__quarantine_cause=QuarantineCause.NONE)
    begun = Run.objects.filter(
        Q(state__in=OPEN_RUN_STATES) | Exists(pairs),
        submission=OuterRef("pk"),
        kind=RunKind.CONFIRMATION,
        base_tree=run.base_tree,
        suite=run.suite,
        hardware=run.hardware,
    )
    overturned = Dispute.objects.filter(submission=OuterRef("pk"), state=DisputeState.OVERTURNED)
    same_code = Q(candidate_tree=run.candidate_tree)
    if submission.code_digest:
        same_code |= Q(code_digest=submission.code_digest)
    return (
        Submission.objects.filter(
            Exists(begun), submitter=submission.submitter_id, bounty__lineage=submission.bounty.lineage_id
        )
        .exclude(pk=submission.pk)
        .exclude(same_code)
        .exclude(state=SubmissionState.JUDGED, verdict_kind__in=[kind.value for kind in NOT_THEIR_FAULT])
        .exclude(Exists(overturned), state=SubmissionState.JUDGED)
    )


def _lowest_bound(submission: Submission) -> int | None:
    """The lowest bound of its confirmations and comparisons, in millionths of a nat; None where one was no gain.

    None also while it is not decided: what was measured stays sealed until then.
    """
    if not is_decided(submission):
        return None
    prices = submission.runs.filter(
        kind__in=[RunKind.CONFIRMATION, RunKind.COMPARISON], verdict__isnull=False
    )
    if prices.exclude(verdict__kind=VerdictKind.GAIN.value).exists():
        return None
    bounds = [bound for bound in prices.values_list("verdict__log_ppm_bound", flat=True) if bound is not None]
    return min(bounds) if bounds and min(bounds) > 0 else None
