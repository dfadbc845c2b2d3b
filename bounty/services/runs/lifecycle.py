"""Life cycle of a run: ordered, queued, lost and queued again, recalled, or ended without evidence."""

from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from benchmarks.catalogue import BUG, SUITES
from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import BadRequest, NotFound
from bounty.models import (
    OPEN_RUN_STATES,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
    RunState,
    RunVerdict,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.access import require_public_tree
from bounty.services.permissions import require_maintainer
from bounty.services.reproductions import require_adopted
from bounty.services.runners.failures import note_failure
from bounty.services.runs.logs import say
from bounty.services.transitions import move, note
from bounty.services.trees import find_tree, require_present_layout
from bounty.services.wakeups import wake_control, wake_reproduction, wake_runner
from gainshare.accounts.models import User


def find_run(run_id: UUID) -> Run:
    """The run with its submission and verdict; raises NotFound."""
    run = Run.objects.select_related("submission__bounty", "runner", "verdict").filter(pk=run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    return run


def queue_run(
    *,
    submission: Submission,
    kind: RunKind,
    base: StoredTree,
    avoid_host_of: Run | None = None,
    after: Run | None = None,
    candidate: StoredTree | None = None,
) -> Run:
    """Queue a run of the submission's candidate, and wake the runners of its hardware.

    ``avoid_host_of`` is an earlier run whose host is avoided if there is another. ``after`` is the pricing
    run that a guard run guards. ``candidate`` is the submission's diff on another tree. A fix of a bug always gets a run with the bug's reproduction, whatever
    ``kind`` is (raises NotReproduced if a maintainer has declined it).
    """
    reproduction = None
    if submission.bounty.is_for_a_bug:
        kind, reproduction = RunKind.FIX, require_adopted(bounty=submission.bounty)
    measured_by = avoid_host_of.runner if avoid_host_of is not None else None
    bounty, candidate = submission.bounty, candidate or submission.candidate_tree
    assert candidate is not None, "only a checked submission is run"
    with transaction.atomic():
        number = Run.objects.filter(submission=submission, kind=kind).count() + 1
        run = Run.objects.create(
            submission=submission,
            kind=kind,
            sequence=number,
            suite=bounty.suite,
            preset=bounty.preset,
            hardware=bounty.hardware,
            base_tree=base,
            candidate_tree=candidate,
            after=after,
            reproduction=reproduction,
            avoid_host=measured_by.host if measured_by is not None else "",
            woken_at=timezone.now(),
        )
        note(run, old="", new=run.state, reason=f"{kind} ordered")
        say(run, f"{kind} run queued: candidate {run.candidate_tree_id[:12]} against {base.pk[:12]}")
        wake_runner(run_id=run.pk, hardware=run.hardware)
    return run


def order_aa_run(*, actor: User, suite: str, preset: str, hardware: str, tree: str) -> Run:
    """Order a run of one tree against itself as a maintainer, which shows a runner's noise."""
    require_maintainer(actor, "order an A/A run")
    return queue_aa_run(
        suite=suite, preset=preset, hardware=hardware, tree=find_tree(tree), reason="A/A ordered", actor=actor
    )


def queue_aa_run(
    *,
    suite: str,
    preset: str,
    hardware: str,
    tree: StoredTree,
    reason: str,
    runner: Runner | None = None,
    actor: User | None = None,
) -> Run:
    """Queue an A/A run for one runner, or for any runner of this hardware. Raises IntegrityError if one of
    this suite and preset already waits for that runner."""
    if suite == BUG.name or suite not in SUITES or preset not in SUITES[suite].presets:
        raise BadRequest("There is no such suite or preset to measure noise with.")
    require_present_layout(tree.pk, instead="Order the run with a lineage's tip, or with shipped.")
    require_public_tree(tree.pk)
    with transaction.atomic():
        run = Run.objects.create(
            kind=RunKind.AA,
            suite=suite,
            preset=preset,
            hardware=hardware,
            base_tree=tree,
            candidate_tree=tree,
            bound_to=runner,
            woken_at=timezone.now(),
        )
        note(run, old="", new=run.state, reason=reason, actor=actor)
        wake_runner(run_id=run.pk, hardware=run.hardware)
    return run


def lose_run(*, run: Run, reason: str, is_forgiven: bool = False, is_runner_s: bool = True) -> bool:
    """Take an open run from its runner. It is queued again, or ended after its last attempt.

    An attempt that the platform itself ended is forgiven: it counts neither against the run nor against its
    runner. One that a sample ended (``is_runner_s`` False) counts against the run only. False if the run has changed
    meanwhile. The log stays.
    """
    with transaction.atomic():
        if not move(run, to=RunState.LOST, reason=reason, forgiven=run.forgiven + is_forgiven):
            return False
        say(run, f"attempt {run.attempt} {'ended' if is_forgiven else 'lost'}: {reason}")
        if is_runner_s and not is_forgiven:
            note_failure(run=run, reason=reason)
        if run.submission_id is not None and _is_unwanted(run.submission_id):
            return True
        if run.attempts_left <= 0:
            end_without_evidence(run=run, reason=reason)
            return True
        move(
            run,
            to=RunState.QUEUED,
            reason=f"{run.attempts_left} of {settings.RUN_MAX_ATTEMPTS} attempts are left",
            pairs_done=0,
            woken_at=timezone.now(),
        )
        wake_runner(run_id=run.pk, hardware=run.hardware)
    return True


def end_without_evidence(*, run: Run, reason: str) -> None:
    """Record the verdict ``infrastructure_error`` for a run whose last attempt was lost."""
    text = (
        f"{run.attempt - run.forgiven} attempts were lost, the last one because: {reason}. The platform failed, so "
        "this does not count as an attempt. Submit again, or ask a maintainer to have it judged again."
    )
    end_lost(run=run, reason="no attempt is left", text=text)


def end_lost(*, run: Run, reason: str, text: str, actor: User | None = None) -> None:
    """End a lost run with the verdict ``infrastructure_error`` and ``text`` as its reason."""
    with transaction.atomic():
        if not move(run, to=RunState.FINISHED, reason=reason, actor=actor, finished_at=timezone.now()):
            return
        RunVerdict.objects.create(run=run, kind=VerdictKind.INFRASTRUCTURE_ERROR.value, reason=text)
        say(run, f"verdict {VerdictKind.INFRASTRUCTURE_ERROR.value}: {text}")
        wake_after(run)


def wake_after(run: Run) -> None:
    """Wake a control worker to continue with a finished run's submission or reproduction."""
    if run.submission_id is not None:
        wake_control(submission_id=run.submission_id)
    elif run.reproduction_id is not None:
        wake_reproduction(reproduction_id=run.reproduction_id)


def _is_unwanted(submission_id: UUID) -> bool:
    return Submission.objects.filter(pk=submission_id, state=SubmissionState.WITHDRAWN).exists()


def recall_all(*, reason: str) -> int:
    """Recall every open run from its runner; return their number."""
    return _recall(Q(), reason)


def recall_untrusted() -> int:
    """Recall runs from quarantined runners, except A/A runs; return their number."""
    suspect = ~Q(runner__quarantine_cause=QuarantineCause.NONE) & ~Q(kind=RunKind.AA)
    return _recall(suspect, "its runner was quarantined")


def _recall(which: Q, reason: str) -> int:
    runs = Run.objects.filter(which, state__in=OPEN_RUN_STATES)
    return sum(lose_run(run=run, reason=reason, is_forgiven=True) for run in runs)
