"""Maintainers' actions on runners, and the effect of failed runs."""

import pytest

from benchmarks.evidence.signing import generate_key
from bounty.errors import BadRequest, NotAllowed, NotFound, NotLeasable, WrongState
from bounty.models import Run, Runner, RunnerFailure, RunState, StateChange
from bounty.services.reconcile import reconcile_runs
from bounty.services.runners import maintenance as runner_maintenance
from bounty.services.runners.calls import heartbeat, report_failure
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import invented_evidence

DIFF = diff_of_line(3, "step_3 = 33")


def state(world: World) -> str:
    world.runner.refresh_from_db()
    return world.runner.state


def care(world: World, action: str, reason: str = "because") -> Runner:
    runner: Runner = getattr(runner_maintenance, action)(
        actor=world.mira, name=world.runner.name, reason=reason
    )
    return runner


def fail(world: World) -> Run:
    run = world.lease()
    assert run.lease is not None and run.runner is not None
    return report_failure(
        runner=run.runner, run_id=run.pk, lease=run.lease, code="no_space", detail="disk full"
    )


def test_a_draining_runner_finishes_its_run_gets_no_other_and_is_drained(world: World) -> None:
    first = world.submit(world.ann, DIFF)
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    run = world.lease()
    assert care(world, "drain", "new fan").state == "draining"
    lease = run.lease
    assert lease is not None
    told = heartbeat(
        runner=world.runner, run_id=run.pk, lease=lease, stage="gating", pairs_done=1, pairs_max=48
    )
    assert told.cancel is False
    world.commit(run)
    world.record(run, invented_evidence(key=world.key, run=job_of(run), units=12))
    assert run.evidence.is_award_eligible
    with pytest.raises(NotLeasable, match="draining"):
        world.lease()
    assert reconcile_runs().drained == 1
    assert state(world) == "drained"
    first.refresh_from_db()
    assert first.state in ("judged", "confirming")
    assert care(world, "resume").state == "active"
    assert world.lease().runner_id == world.runner.pk


def test_an_idle_runner_is_drained_at_once_and_draining_again_changes_nothing(world: World) -> None:
    assert care(world, "drain", "moves house").state == "drained"
    assert care(world, "drain", "again").state == "drained"
    assert StateChange.objects.filter(subject="runner", reason="again").count() == 0
    change = StateChange.objects.get(subject="runner", new="draining")
    assert (change.reason, change.actor) == ("moves house", world.mira)


def test_a_runner_that_is_quarantined_while_it_is_drained_comes_back_quarantined(world: World) -> None:
    care(world, "drain")
    assert care(world, "quarantine", "the disk clicks").state == "drained"
    assert care(world, "resume").state == "quarantined"
    assert care(world, "release").state == "active"


def test_a_quarantined_runner_can_be_drained_and_is_still_in_quarantine(world: World) -> None:
    care(world, "quarantine")
    assert care(world, "drain").state == "drained"
    assert care(world, "release").state == "drained"  # trusted again, and still without work
    assert care(world, "resume").state == "active"


def test_quarantine_takes_a_submissions_run_away_and_the_attempt_does_not_count(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    lease = run.lease
    assert lease is not None
    care(world, "quarantine", "drifts")
    run.refresh_from_db()
    assert (run.state, run.attempt, run.forgiven, run.attempts_left) == (RunState.QUEUED, 1, 1, 3)
    assert state(world) == "quarantined"
    told = heartbeat(
        runner=world.runner, run_id=run.pk, lease=lease, stage="gating", pairs_done=1, pairs_max=48
    )
    assert told.cancel is True
    assert not RunnerFailure.objects.exists()
    other, _ = world.add_runner(generate_key())
    assert world.lease(other).pk == run.pk


def test_a_retired_runner_never_comes_back_and_loses_its_own_aa_runs(world: World) -> None:
    runner_maintenance.calibrate(actor=world.mira, name=world.runner.name)
    care(world, "retire", "sold")
    assert Run.objects.get(kind="aa").state == RunState.LOST
    for action in ("resume", "drain", "quarantine"):
        with pytest.raises(WrongState):
            care(world, action)
    with pytest.raises(WrongState):
        runner_maintenance.calibrate(actor=world.mira, name=world.runner.name)
    assert care(world, "release").state == "retired"


def test_the_state_endpoint_leads_to_the_same_actions(world: World) -> None:
    for wanted, found in (
        ("draining", "drained"),
        ("quarantined", "drained"),
        ("active", "active"),
        ("quarantined", "quarantined"),
        ("active", "active"),
        ("retired", "retired"),
    ):
        runner = runner_maintenance.set_runner_state(
            actor=world.mira, name=world.runner.name, state=wanted, reason="so"
        )
        assert runner.state == found
    with pytest.raises(BadRequest):
        runner_maintenance.set_runner_state(
            actor=world.mira, name=world.runner.name, state="asleep", reason="so"
        )


def test_only_maintainers_manage_runners_and_each_action_says_why(world: World) -> None:
    for action in ("drain", "resume", "quarantine", "release", "retire"):
        with pytest.raises(NotAllowed):
            getattr(runner_maintenance, action)(actor=world.ann, name=world.runner.name, reason="x")
        with pytest.raises(BadRequest):
            care(world, action, "  ")
        with pytest.raises(NotFound):
            getattr(runner_maintenance, action)(actor=world.mira, name="nobody", reason="x")
    assert state(world) == "active"


def test_a_calibration_names_suite_and_preset_or_neither(world: World) -> None:
    name = world.runner.name
    with pytest.raises(BadRequest):
        runner_maintenance.calibrate(actor=world.mira, name=name, suite="moe_forward")
    with pytest.raises(BadRequest):
        runner_maintenance.calibrate(actor=world.mira, name=name, suite="nothing", preset="demo")
    _, ordered = runner_maintenance.calibrate(actor=world.mira, name=name)
    assert [run.base_tree_id for run in ordered] == [world.tree.pk]
    assert runner_maintenance.calibrate(actor=world.mira, name=name)[1] == []


def test_three_different_runs_that_fail_in_a_row_quarantine_the_runner(world: World) -> None:
    for line in (1, 2, 3):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    for expected in ("active", "active", "quarantined"):
        run = fail(world)
        assert state(world) == expected
        Run.objects.filter(pk=run.pk).update(state=RunState.LOST)  # the next one is another run
    assert world.runner.quarantine_cause == "failures"
    assert "disk full" in StateChange.objects.get(subject="runner", new="quarantined").reason


def test_one_run_that_fails_again_and_again_does_not_quarantine_its_runner(world: World) -> None:
    world.submit(world.ann, DIFF)
    for _ in range(3):
        fail(world)
    assert RunnerFailure.objects.count() == 3
    assert state(world) == "active"
    assert Run.objects.get().verdict.kind == "infrastructure_error"


def test_a_finished_run_in_between_ends_the_row(world: World) -> None:
    for line in (1, 2, 3, 4):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    for _ in range(2):
        Run.objects.filter(pk=fail(world).pk).update(state=RunState.LOST)
    world.judge(0.0, units=12)
    fail(world)
    assert state(world) == "active"


def test_failures_before_a_release_are_forgotten(world: World) -> None:
    for line in (1, 2, 3, 4):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    for _ in range(3):
        Run.objects.filter(pk=fail(world).pk).update(state=RunState.LOST)
    assert state(world) == "quarantined"
    care(world, "release", "disk emptied")
    fail(world)
    assert state(world) == "active"
