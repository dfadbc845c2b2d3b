"""Pooling: all pairs of one candidate against one base are one sequence, whatever became of the runs that took them.

A runner posts each complete pair, signed, before it begins the next one. A later run of the same candidate (or one of
equal form) by the same person against the same base, suite, preset and hardware continues from them: so neither a lost
runner, a cancelled run nor a dispute is a second draw. Never across bases or people, nor across versions of the judge.
"""

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from benchmarks.evidence.pair_record import POOLED_KINDS, fault_of
from benchmarks.patch.policy import harness_hash
from bounty.errors import BadRequest, EvidenceConflict, EvidenceRefused
from bounty.models import (
    PRICING_KINDS,
    MeasuredPair,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
)
from bounty.services.runs.leases import require_lease
from bounty.services.runs.prices import sets_price

MAX_PAIRS = 1_000  # of one attempt: some times what the longest gate takes over all cases


def post_pair(*, runner: Runner, run_id: UUID, lease: UUID, sealed: Any) -> MeasuredPair:
    """Keep the signed record of a pair; the same record again changes nothing.

    Raises NotFound, LeaseLost, EvidenceRefused for a record that is not this attempt's, and EvidenceConflict for
    another record of the same pair.
    """
    with transaction.atomic():
        run = require_lease(run_id=run_id, lease=lease, runner_id=runner.pk)
        if wrong := _wrong(run, runner, sealed):
            raise EvidenceRefused(f"The record of the pair is not valid: {wrong}")
        index = sealed["document"]["pair"]["index"]
        if index >= MAX_PAIRS:
            raise BadRequest(f"An attempt has at most {MAX_PAIRS} pairs.")
        row = {"digest": sealed["digest"], "sealed": sealed, "runner": runner}
        try:
            with transaction.atomic():
                kept, _ = MeasuredPair.objects.get_or_create(
                    run=run, attempt=run.attempt, index=index, defaults=row
                )
        except IntegrityError:
            raise EvidenceConflict("This record was posted for another pair.") from None
        if kept.digest != sealed["digest"]:
            raise EvidenceConflict("Another record of this pair was posted before, and it stays.")
    return kept


def _wrong(run: Run, runner: Runner, sealed: Any) -> str:
    """What does not fit the attempt that the runner holds; empty if all does."""
    if fault := fault_of(sealed, public_key=runner.public_key):
        return fault
    record = sealed["document"]
    stated_and_ordered = {
        "run": (record["run"], {"id": str(run.pk), "kind": run.judged_as, "nonce": run.nonce}),
        "suite": (record["suite"], {"name": run.suite, "preset": run.preset}),
        "trees": (record["trees"], {"base": run.base_tree_id, "candidate": run.candidate_tree_id}),
        "judge": (record["harness_hash"], harness_hash()),
    }
    wrong = [
        f"{name} ({stated})" for name, (stated, ordered) in stated_and_ordered.items() if stated != ordered
    ]
    if not run.commitment:
        wrong.append("no commitment was posted before it")
    if run.judged_as not in POOLED_KINDS:
        wrong.append(f"pairs of a {run.kind} run are not kept one by one")
    return "; ".join(wrong)[:1000]


def pairs_to_continue(run: Run) -> QuerySet[MeasuredPair]:
    """The pairs from which the run's next attempt continues, oldest first.

    Those of a runner in quarantine are left out: its measurements are not trusted.
    """
    kinds = _pooled_kinds(run)
    if run.submission is None or not kinds:
        return MeasuredPair.objects.none()
    same_code = Q(run__candidate_tree=run.candidate_tree)
    if run.submission.code_digest:
        same_code |= Q(run__submission__code_digest=run.submission.code_digest)
    return MeasuredPair.objects.filter(
        same_code,
        run__kind__in=kinds,
        run__submission__submitter=run.submission.submitter_id,
        run__base_tree=run.base_tree,
        run__suite=run.suite,
        run__preset=run.preset,
        run__hardware=run.hardware,
        runner__quarantine_cause=QuarantineCause.NONE,
        sealed__document__harness_hash=harness_hash(),
    ).order_by("pk")


def _pooled_kinds(run: Run) -> tuple[str, ...]:
    """Kinds of runs whose pairs this run continues. A random re-measurement stands alone: it is a check."""
    if run.kind == RunKind.GATE:
        return (RunKind.GATE,)
    return PRICING_KINDS if sets_price(run) else ()


def continued_records(run: Run) -> list[dict[str, Any]]:
    """The records that the present attempt continues, as they were settled with its lease."""
    found = {pair.digest: pair.sealed for pair in MeasuredPair.objects.filter(digest__in=run.continues)}
    return [found[digest] for digest in run.continues]
