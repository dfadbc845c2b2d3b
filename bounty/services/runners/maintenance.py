"""Maintainers' actions on runners: drain, resume, quarantine, release, retire, calibrate. Each needs a reason."""

from django.db import transaction

from bounty.errors import BadRequest, NotFound, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    QuarantineCause,
    Run,
    Runner,
    RunnerState,
    RunState,
)
from bounty.services.permissions import require_maintainer
from bounty.services.runners.calibration_schedule import Calibration, calibrations_of, order_calibration
from bounty.services.runners.quarantine import end_quarantine
from bounty.services.runners.quarantine import quarantine as begin_quarantine
from bounty.services.runs.lifecycle import recall_untrusted
from bounty.services.transitions import move
from bounty.services.trees import find_tree
from gainshare.accounts.models import User


def find_runner(name: str) -> Runner:
    """The runner of this name; raises NotFound."""
    runner = Runner.objects.filter(name=name).first()
    if runner is None:
        raise NotFound(
            "There is no runner with this name. See the page Runners or GET runners/ for all names."
        )
    return runner


def set_runner_state(*, actor: User, name: str, state: str, reason: str) -> Runner:
    """Set a runner's state through the action that leads there: quarantine, release or resume, drain, retire."""
    if state == RunnerState.ACTIVE:
        runner = resume(actor=actor, name=name, reason=reason)
        return (
            release(actor=actor, name=name, reason=reason) if runner.state != RunnerState.ACTIVE else runner
        )
    actions = {
        RunnerState.DRAINING.value: drain,
        RunnerState.DRAINED.value: drain,
        RunnerState.QUARANTINED.value: quarantine,
        RunnerState.RETIRED.value: retire,
    }
    if state not in actions:
        raise BadRequest(f"The state must be one of {', '.join(RunnerState.values)}.")
    return actions[state](actor=actor, name=name, reason=reason)


def drain(*, actor: User, name: str, reason: str) -> Runner:
    """Let a runner finish its run and give it no more runs. Repeating changes nothing."""
    with transaction.atomic():
        runner = _locked(actor, name, reason)
        if runner.state in (RunnerState.DRAINING, RunnerState.DRAINED):
            return runner
        if runner.state == RunnerState.RETIRED:
            raise WrongState("A retired runner cannot be drained, because it gets no runs.")
        move(runner, to=RunnerState.DRAINING, reason=reason, actor=actor)
        _settle(runner)
    return runner


def resume(*, actor: User, name: str, reason: str) -> Runner:
    """Give a draining or drained runner runs again; one that was quarantined meanwhile is still quarantined."""
    with transaction.atomic():
        runner = _locked(actor, name, reason)
        if runner.state in (RunnerState.ACTIVE, RunnerState.QUARANTINED):
            return runner
        if runner.state == RunnerState.RETIRED:
            raise WrongState("A retired runner cannot be resumed. Register it as a new one.")
        is_trusted = runner.quarantine_cause == QuarantineCause.NONE
        move(
            runner,
            to=RunnerState.ACTIVE if is_trusted else RunnerState.QUARANTINED,
            reason=reason,
            actor=actor,
        )
    return runner


def quarantine(*, actor: User, name: str, reason: str) -> Runner:
    """Quarantine a runner until a maintainer releases it. A submission's run that it has goes to another runner."""
    runner = _allowed(actor, name, reason)
    if runner.state == RunnerState.RETIRED:
        raise WrongState("A retired runner gets no runs, so this action has no effect on it.")
    begin_quarantine(runner=runner, cause=QuarantineCause.MAINTAINER, reason=reason, actor=actor)
    recall_untrusted()
    return runner


def release(*, actor: User, name: str, reason: str) -> Runner:
    """Release a runner from quarantine, whatever its cause."""
    runner = _allowed(actor, name, reason)
    end_quarantine(runner=runner, reason=reason, actor=actor)
    return runner


def retire(*, actor: User, name: str, reason: str) -> Runner:
    """Retire a runner: its token stops working for good. Its run is queued again when the lease expires."""
    with transaction.atomic():
        runner = _locked(actor, name, reason)
        if runner.state != RunnerState.RETIRED:
            move(runner, to=RunnerState.RETIRED, reason=reason, actor=actor)
        own = Run.objects.filter(bound_to=runner, state=RunState.QUEUED)
    for run in own:
        move(run, to=RunState.LOST, reason="its runner was retired")
    return runner


def calibrate(
    *, actor: User, name: str, suite: str = "", preset: str = "", tree: str = "shipped"
) -> tuple[Runner, list[Run]]:
    """Order A/A runs now: of one suite and preset, or of all that open bounties for its hardware pay for."""
    runner = _allowed(actor, name, "calibrate")
    if runner.state == RunnerState.RETIRED:
        raise WrongState("A retired runner gets no runs, so this action has no effect on it.")
    if bool(suite) != bool(preset):
        raise BadRequest("Name both a suite and its preset, or neither.")
    wanted = [Calibration(suite, preset, find_tree(tree))] if suite else calibrations_of(runner.hardware)
    if not wanted:
        raise BadRequest(
            "No open bounty uses this hardware, so there is nothing to choose from. Name a suite and a preset."
        )
    reason = "ordered by a maintainer"
    made = [order_calibration(runner=runner, what=what, reason=reason, actor=actor) for what in wanted]
    return runner, [run for run in made if run is not None]


def settle_drains() -> int:
    """Set draining runners without a run to drained; return their number."""
    count = 0
    for runner in Runner.objects.filter(state=RunnerState.DRAINING):
        with transaction.atomic():
            fresh = Runner.objects.select_for_update(no_key=True).get(pk=runner.pk)
            count += fresh.state == RunnerState.DRAINING and _settle(fresh)
    return count


def _settle(runner: Runner) -> bool:
    """Set a draining runner to drained, unless it has a run. Its row is locked, so it gets no lease meanwhile."""
    if Run.objects.filter(runner=runner, state__in=OPEN_RUN_STATES).exists():
        return False
    return move(runner, to=RunnerState.DRAINED, reason="it has finished its run")


def _allowed(actor: User, name: str, reason: str) -> Runner:
    require_maintainer(actor, "manage runners")
    if not reason.strip():
        raise BadRequest("Give a reason; it is recorded in the runner's history.")
    return find_runner(name)


def _locked(actor: User, name: str, reason: str) -> Runner:
    return Runner.objects.select_for_update(no_key=True).get(pk=_allowed(actor, name, reason).pk)
