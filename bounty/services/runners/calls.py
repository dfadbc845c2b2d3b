"""Calls of a runner while it judges: lease, heartbeat, commitment, failure.

Every call carries the run's lease. If another runner has the lease now, the call is refused (LeaseLost).
Evidence is in `verdicts`, the log in `logs`.
"""

import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from bounty.errors import (
    BadRequest,
    CommitmentConflict,
    LeaseLost,
    NotFound,
    NotLeasable,
    NotOffered,
    Stopped,
)
from bounty.limits import OTHER_HOST_WAIT, RUNNER_ALIVE
from bounty.models import (
    OPEN_RUN_STATES,
    PRICING_KINDS,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.services.emergency import is_stopped, require_running
from bounty.services.runners.device_waits import end_device_wait, note_device_wait
from bounty.services.runners.fingerprints import follow_fingerprint
from bounty.services.runners.lending import borrow, give_back, keep
from bounty.services.runs.earlier import settle_earlier
from bounty.services.runs.leases import NOT_HELD, holds, require_lease
from bounty.services.runs.lifecycle import lose_run
from bounty.services.runs.logs import say
from bounty.services.runs.old_trees import old_award_of
from bounty.services.runs.pooling import pairs_to_continue
from bounty.services.runs.queues import note_let_by, order_for
from bounty.services.series.best import measured_base
from bounty.services.transitions import move

STAGES = {"preparing": RunState.PREPARING, "gating": RunState.GATING, "measuring": RunState.MEASURING}
STAGE_ORDER = [RunState.LEASED, RunState.PREPARING, RunState.GATING, RunState.MEASURING]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat: whether to stop at once, and until when the lease holds.

    ``give_back_s``: stop between two pairs and give the device back within so many seconds. None: measure on.
    """

    cancel: bool
    lease_expires_at: datetime
    give_back_s: float | None = None


def lease_run(*, runner: Runner, run_id: UUID, fingerprint: Mapping[str, Any] | None = None) -> Run:
    """Lease the next run in the fair order to the runner. ``run_id`` only says which wake-up it answers.

    A run that this runner still holds is lost, because it runs one job at a time and must have been restarted.
    Raises NotLeasable if no run waits for this runner, or it may not get one.
    """
    end_device_wait(runner=runner)
    for held in Run.objects.filter(runner=runner, state__in=OPEN_RUN_STATES):
        lose_run(run=held, reason="its runner was restarted")
    give_back(runner=runner)  # of an earlier run, whose runner died before it said so
    if fingerprint is not None:
        follow_fingerprint(runner=runner, fingerprint=fingerprint)
    runner.refresh_from_db()
    _require_at_work(runner)
    try:
        return _take_next(runner)
    except NotOffered:
        note_device_wait(runner=runner)
        raise


def _take_next(runner: Runner) -> Run:
    for waiting_id in order_for(runner):
        run = Run.objects.select_related("submission__bounty").get(pk=waiting_id)
        if run.state == RunState.QUEUED and not _leave_to_other_host(run, runner) and _take(run, runner):
            return run
    raise NotLeasable("No run waits for this runner now.")


def _require_at_work(runner: Runner) -> None:
    """Raises NotLeasable if this runner's state does not allow any run."""
    if runner.state not in (RunnerState.ACTIVE, RunnerState.QUARANTINED):
        raise NotLeasable(f"This runner is {runner.state} and gets no runs. Ask a maintainer.")


def _take(run: Run, runner: Runner) -> bool:
    now, base_before = timezone.now(), run.base_tree_id
    fields: dict[str, Any] = {
        "lease": uuid.uuid4(),
        "lease_expires_at": now + timedelta(seconds=settings.RUN_LEASE_S),
        "runner": runner,
        "attempt": run.attempt + 1,
        "nonce": secrets.token_hex(32),
        "commitment": "",
        "pairs_done": 0,
        "pairs_max": 0,
        "log_lease_chars": 0,
        "leased_at": now,
    }
    if run.kind == RunKind.CONFIRMATION and run.submission is not None:
        # A gain is measured against the best tree now, not the one at the time of the submission.
        fields["base_tree"] = measured_base(bounty=run.submission.bounty, of=run.submission)
    if run.kind in (*PRICING_KINDS, RunKind.COMPARISON) and run.submission is not None:
        base = fields.get("base_tree", run.base_tree)
        fields["old_award"] = old_award_of(submission=run.submission, base=base)
    try:
        with transaction.atomic():
            require_running(Switch.JUDGING)
            # Serialises with changes of the runner's state: the present state counts.
            at_work = Runner.objects.select_for_update(no_key=True).get(pk=runner.pk)
            _require_at_work(at_work)
            if at_work.state == RunnerState.QUARANTINED and run.kind != RunKind.AA:
                raise NotLeasable("This runner is quarantined and gets only A/A runs. Ask a maintainer.")
            submission = _locked_submission(run)
            note_let_by(run)
            if not move(run, to=RunState.LEASED, reason=f"leased by {runner.name}", **fields):
                return False
            borrow(at_work)
            say(run, f"attempt {run.attempt}: leased by {runner.name}")  # before any sealed line
            _settle_continued(run)
            settle_earlier(run, base_before=base_before)
            if submission is not None and submission.state == SubmissionState.QUEUED:
                move(submission, to=SubmissionState.JUDGING, reason=f"{run.kind} run started")
    except Stopped as stop:
        raise NotLeasable(stop.message) from None
    except IntegrityError:  # one open lease per runner, violated by two concurrent requests with one token
        raise NotLeasable("This runner has just leased another run.") from None
    return True


def _settle_continued(run: Run) -> None:
    """Settle from which earlier pairs this attempt continues: its evidence must name exactly these."""
    run.continues = list(pairs_to_continue(run).values_list("digest", flat=True))
    run.save(update_fields=["continues"])
    if run.continues:
        say(run, f"it continues from {len(run.continues)} pairs that were measured before", is_sealed=True)


def _locked_submission(run: Run) -> Submission | None:
    """The run's submission, locked before the run, which is the lock order of a withdrawal."""
    if run.submission_id is None:
        return None
    return Submission.objects.select_for_update(no_key=True).get(pk=run.submission_id)


def _leave_to_other_host(run: Run, runner: Runner) -> bool:
    """Whether a run should wait for another host than its predecessor's, within a time limit."""
    if not run.avoid_host or run.avoid_host != runner.host:
        return False
    if run.queued_at < timezone.now() - OTHER_HOST_WAIT:
        return False
    others = Runner.objects.filter(
        hardware=runner.hardware,
        state=RunnerState.ACTIVE,
        last_seen_at__gte=timezone.now() - RUNNER_ALIVE,
    ).exclude(host=runner.host)
    return others.exists()


def heartbeat(
    *, runner: Runner, run_id: UUID, lease: UUID, stage: str, pairs_done: int, pairs_max: int
) -> Heartbeat:
    """Renew the lease and record the progress. ``cancel`` tells the runner to stop."""
    if stage not in STAGES:
        raise BadRequest(f"The stage must be one of {', '.join(STAGES)}.")
    if not 0 <= pairs_done <= 100_000 or not 0 <= pairs_max <= 100_000:
        raise BadRequest("Numbers of pairs must be from 0 to 100000.")
    expires_at = timezone.now() + timedelta(seconds=settings.RUN_LEASE_S)
    with transaction.atomic():
        try:
            run = require_lease(run_id=run_id, lease=lease, runner_id=runner.pk)
        except LeaseLost:
            if _is_taken_back(run_id, lease, runner):
                return Heartbeat(True, expires_at)
            raise
        to = STAGES[stage]
        if STAGE_ORDER.index(to) > STAGE_ORDER.index(RunState(run.state)):
            move(run, to=to, reason="reported by the runner")
        Run.objects.filter(pk=run.pk, lease=lease).update(
            lease_expires_at=expires_at,
            pairs_done=max(run.pairs_done, pairs_done),
            pairs_max=pairs_max,
            was_sampled=run.was_sampled or pairs_done > 0,
        )
        give_back_s = keep(runner)
    return Heartbeat(False, expires_at, give_back_s)


def _is_taken_back(run_id: UUID, lease: UUID, runner: Runner) -> bool:
    """Whether people ended the run under this lease: withdrawn, cancelled, stopped or quarantined."""
    run = Run.objects.filter(pk=run_id).first()
    if run is None or not holds(run, lease=lease, runner_id=runner.pk):
        return False
    return (
        run.state in (RunState.LOST, RunState.FINISHED)
        or is_stopped(Switch.JUDGING)
        or runner.quarantine_cause != QuarantineCause.NONE
    )


def commit(*, runner: Runner, run_id: UUID, lease: UUID, commitment: str) -> None:
    """Record the runner's commitment before its first sample, once per attempt. Repeating it changes nothing."""
    if not re.fullmatch(r"[0-9a-f]{64}", commitment):
        raise BadRequest("A commitment must be 64 lower-case hex digits.")
    with transaction.atomic():
        run = require_lease(run_id=run_id, lease=lease, runner_id=runner.pk)
        if run.commitment and run.commitment != commitment:
            raise CommitmentConflict("This attempt has already committed to other secrets.")
        Run.objects.filter(pk=run.pk, lease=lease, commitment__in=["", commitment]).update(
            commitment=commitment, was_sampled=True
        )


def report_failure(*, runner: Runner, run_id: UUID, lease: UUID, code: str, detail: str) -> Run:
    """Record that the runner failed, through no fault of the candidate. Repeating the report changes nothing."""
    with transaction.atomic():
        run = Run.objects.select_for_update().filter(pk=run_id).first()
        if run is None:
            raise NotFound("There is no such run.")
        if not holds(run, lease=lease, runner_id=runner.pk):
            raise LeaseLost(NOT_HELD)
        if run.state in OPEN_RUN_STATES:
            lose_run(run=run, reason=f"the runner reports {code[:60]}: {detail[:1000]}")
    return run
