"""Recording of evidence and its verdict, once per run, and only if all of it is valid.

The verdict that counts is recomputed here from the raw samples. Evidence is accepted only from the runner
that holds the lease, signed with its registered key, for this attempt's nonce and commitment, about the
ordered trees and suite, and from the platform's version of the judge.
"""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.evidence.base_checks import base_failed, is_of_runner
from benchmarks.evidence.canonical import canonical_bytes
from benchmarks.evidence.samples import turns
from benchmarks.evidence.verify import VerificationReport, verify_evidence
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.pairs.seats import ABOUT_BASE
from benchmarks.statistics.units import pair_log_ppb
from bounty.errors import EvidenceConflict, EvidenceRefused, LeaseLost, NotFound
from bounty.models import OPEN_RUN_STATES, Evidence, Run, RunKind, Runner, RunState, RunVerdict
from bounty.services.runners.calibration import note_outcome
from bounty.services.runs.leases import NOT_HELD, holds, require_lease
from bounty.services.runs.lifecycle import lose_run, wake_after
from bounty.services.runs.logs import say
from bounty.services.runs.old_trees import note_slow_base
from bounty.services.series.base_stops import stop_lineages
from bounty.services.series.tip_checks import note_tip_check
from bounty.services.transitions import move
from bounty.services.trees import blob_store


def record_evidence(*, runner: Runner, run_id: UUID, lease: UUID, sealed: Any) -> RunVerdict | Verdict:
    """Verify sealed evidence and record its verdict; the same document again returns the recorded one.

    Evidence of the runner's own failure queues the run again while attempts are left. Raises NotFound, LeaseLost,
    EvidenceConflict (another document gave the run its verdict), EvidenceRefused (and the run is queued again).
    """
    run = Run.objects.select_related("submission").filter(pk=run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    if run.state == RunState.FINISHED and run.runner_id == runner.pk:
        return _recorded(run, sealed)
    if not holds(run, lease=lease, runner_id=runner.pk) or run.state not in OPEN_RUN_STATES:
        raise LeaseLost(NOT_HELD)
    report = verify_evidence(
        sealed,
        trusted_keys={runner.key_id: runner.public_key},
        nonce=run.nonce,
        commitment=run.commitment,
        require_installed_harness=True,
    )
    wrong = [f"{check.name} ({check.detail})" for check in report.checks if not check.holds]
    if not wrong:
        wrong = mismatches(run, sealed["document"])
    if wrong:
        reason = f"its evidence was refused: {'; '.join(wrong)}"[:2000]
        lose_run(run=run, reason=reason)
        raise EvidenceRefused(
            f"The evidence is not valid, and the run is queued again: {'; '.join(wrong)}"[:2000]
        )
    document = sealed["document"]
    if base_failed(document) and run.kind != RunKind.TIP:  # there base is an old tree, no lineage's
        return _stop(run, sealed, report.verdict)
    is_failure = report.verdict.kind == VerdictKind.INFRASTRUCTURE_ERROR
    if is_failure and run.attempts_left > 0:
        of_runner = is_of_runner(document)
        if not lose_run(run=run, reason=report.verdict.reason, is_runner_s=of_runner):
            raise LeaseLost(NOT_HELD)
        return report.verdict
    return _record(run, runner, lease, sealed, report)


def _stop(run: Run, sealed: dict[str, Any], verdict: Verdict) -> Verdict:
    """Base fails on its own: the lineage stops, and the run waits, forgiven, until a maintainer releases it."""
    with transaction.atomic():
        stop_lineages(run=run, sealed=sealed, reason=verdict.reason)
        if not lose_run(run=run, reason=verdict.reason, is_forgiven=True):
            raise LeaseLost(NOT_HELD)
    return verdict


def mismatches(run: Run, document: dict[str, Any]) -> list[str]:
    """Differences between a verified document and the order: ``name (stated, ordered)`` each."""
    stated_and_ordered = {
        "run": (document["run"]["id"], str(run.pk)),
        "kind": (document["run"]["kind"], run.judged_as),
        "suite": (document["suite"]["name"], run.suite),
        "reproduction": (
            document["suite"].get("reproduction", ""),
            run.reproduction.blob if run.reproduction is not None else "",
        ),
        "preset": (document["suite"].get("preset"), run.preset),
        "base tree": (document["trees"]["base"], run.base_tree_id),
        "candidate tree": (document["trees"]["candidate"], run.candidate_tree_id),
        "earlier pairs": ([sealed["digest"] for sealed in document["continues"]], run.continues),
        "old tree": (document.get("old"), run.old),
        "earlier confirmations": (document.get("earlier_confirmations"), run.earlier_confirmations),
    }
    return [
        f"{name} ({stated}, ordered {ordered})"
        for name, (stated, ordered) in stated_and_ordered.items()
        if stated != ordered
    ]


def plot_samples(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Log ratio of each complete measured or control pair in billionths of a nat. For plots only; no verdict depends on it."""
    complete = {case["name"]: 2 * case["calls"] for case in document["suite"]["cases"]}
    return [
        {
            "index": pair["index"],
            "control": pair["control"],
            "case": pair["case"],
            "log_ratio_ppb": pair_log_ppb(turns(pair["calls"])),
        }
        for pair in document["pairs"]
        if len(pair["calls"]) == complete[pair["case"]] and pair.get("tree") not in ABOUT_BASE
    ]


def _recorded(run: Run, sealed: Any) -> RunVerdict:
    verdict = RunVerdict.objects.select_related("evidence").get(run=run)
    stated = sealed.get("digest") if isinstance(sealed, dict) else None
    if verdict.evidence is None or verdict.evidence.digest != stated:
        raise EvidenceConflict(
            "This run already has its verdict from other evidence, and a run is judged only once."
        )
    return verdict


def _record(
    run: Run, runner: Runner, lease: UUID, sealed: dict[str, Any], report: VerificationReport
) -> RunVerdict:
    data = canonical_bytes(sealed)
    blob = blob_store().put(data)
    verdict = report.verdict
    with transaction.atomic():
        run = require_lease(run_id=run.pk, lease=lease, runner_id=runner.pk)
        # Read again under the lock: evidence of a runner that was quarantined meanwhile earns no award.
        is_trusted = Runner.objects.get(pk=runner.pk).is_trusted
        evidence = Evidence.objects.create(
            run=run,
            digest=sealed["digest"],
            blob=blob,
            size_bytes=len(data),
            runner=runner,
            key_id=runner.key_id,
            sandbox_level=sealed["document"]["sandbox"]["level"],
            is_award_eligible=report.award_eligible and is_trusted,
            samples=plot_samples(sealed["document"]),
            trials=sealed["document"].get("trials", []),
        )
        recorded = RunVerdict.objects.create(
            run=run,
            kind=verdict.kind.value,
            reason=verdict.reason,
            log_ppm_estimate=verdict.log_ppm_estimate,
            log_ppm_bound=verdict.log_ppm_bound,
            pairs=verdict.pairs,
            evidence=evidence,
        )
        move(
            run,
            to=RunState.FINISHED,
            reason=f"evidence {sealed['digest']}",
            finished_at=timezone.now(),
            pairs_done=max(run.pairs_done, verdict.pairs),
        )
        say(run, f"verdict {verdict.kind.value}: {verdict.reason}", is_sealed=True)
        note_slow_base(run=run, document=sealed["document"], verdict=verdict)
        note_tip_check(run=run, document=sealed["document"], is_trusted=report.award_eligible and is_trusted)
        note_outcome(run=run, document=sealed["document"], verdict=verdict)
        wake_after(run)
    return recorded
