"""A/A runs: their records, their effect on the runner, and their schedule."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.utils import timezone
from pytest_django import Settings

from benchmarks.evidence.signing import generate_key
from bounty import tasks
from bounty.errors import NotLeasable
from bounty.models import (
    NoiseSample,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    StateChange,
)
from bounty.services.runners.calibration import noise_limit
from bounty.services.runners.calibration_schedule import calibrations_of as calibrations
from bounty.services.runners.calibration_schedule import order_calibration, schedule_calibrations
from bounty.services.runners.doubts import runs_in_doubt
from bounty.services.runners.maintenance import calibrate, quarantine, release
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")
NOISY = 0.045  # nats a pair: above the floor of 3 %, below what would keep a gate from deciding


def aa_run(world: World, speed_up_log: float = 0.0, **how: Any) -> NoiseSample:
    """Have the world's runner measure its tree against itself, with these invented samples."""
    calibrate(
        actor=world.mira, name=world.runner.name, suite="moe_forward", preset="demo", tree=world.tree.pk
    )
    run = world.judge(speed_up_log, **{"units": 12, **how})
    assert (run.kind, run.bound_to_id) == (RunKind.AA, world.runner.pk)
    world.runner.refresh_from_db()
    return NoiseSample.objects.get(run=run)


def age(runner: Runner, hours: float) -> None:
    Runner.objects.filter(pk=runner.pk).update(history_since=timezone.now() - timedelta(hours=hours))


def test_a_good_run_leaves_its_figures_and_changes_nothing_else(world: World) -> None:
    sample = aa_run(world)
    assert (sample.runner, sample.suite, sample.preset) == (world.runner, "moe_forward", "demo")
    assert sample.is_good and sample.fault == "" and sample.verdict_kind == "no_gain"
    assert 2_000 < sample.noise_log_ppm < 8_000  # invented with 0.4 %
    assert abs(sample.median_log_ppm) < 3_000
    assert world.runner.state == RunnerState.ACTIVE


@pytest.mark.parametrize("speed_up_log", [0.3, -0.3])
def test_a_tree_that_beats_itself_quarantines_the_runner(world: World, speed_up_log: float) -> None:
    sample = aa_run(world, speed_up_log)
    assert not sample.is_good
    assert (world.runner.state, world.runner.quarantine_cause) == ("quarantined", QuarantineCause.DRIFT)
    change = StateChange.objects.get(subject="runner", new="quarantined")
    assert str(sample.run_id) in change.reason and "against itself" in change.reason


def test_more_noise_than_its_own_history_allows_quarantines_the_runner(world: World) -> None:
    assert noise_limit(runner=world.runner, suite="moe_forward", preset="demo") is None
    assert aa_run(world, noise_log=NOISY, units=48).is_good  # too new to be compared with itself
    for _ in range(5):
        assert aa_run(world).is_good
    limit = noise_limit(runner=world.runner, suite="moe_forward", preset="demo")
    assert limit == 29_853  # three times 0.4 % is below the floor of three minimum effects
    sample = aa_run(world, noise_log=NOISY, units=48)
    assert sample.noise_log_ppm > limit and "noise" in sample.fault
    assert world.runner.state == RunnerState.QUARANTINED


def test_a_new_history_forgets_what_was_measured_on_other_hardware(world: World) -> None:
    for _ in range(5):
        aa_run(world)
    Runner.objects.filter(pk=world.runner.pk).update(history_since=timezone.now())
    world.runner.refresh_from_db()
    assert noise_limit(runner=world.runner, suite="moe_forward", preset="demo") is None


def test_a_quarantined_runner_gets_only_aa_runs_and_comes_back_after_three_good_ones(world: World) -> None:
    aa_run(world, 0.3)
    world.submit(world.ann, DIFF)
    with pytest.raises(NotLeasable):
        world.lease()
    states = [(aa_run(world), world.runner.state)[1] for _ in range(3)]
    assert states == ["quarantined", "quarantined", "active"]
    assert "3 good A/A runs in a row" in StateChange.objects.filter(subject="runner").latest("pk").reason
    assert world.lease().kind == RunKind.GATE


def test_a_bad_run_in_between_starts_the_count_again(world: World) -> None:
    aa_run(world, 0.3)
    for speed_up_log in (0.0, 0.0, 0.3, 0.0, 0.0):
        aa_run(world, speed_up_log)
        assert world.runner.state == RunnerState.QUARANTINED
    aa_run(world)
    assert world.runner.state == RunnerState.ACTIVE


def test_good_runs_do_not_release_what_a_maintainer_quarantined(world: World) -> None:
    quarantine(actor=world.mira, name=world.runner.name, reason="smells of smoke")
    for _ in range(4):
        aa_run(world)
    assert world.runner.state == RunnerState.QUARANTINED
    release(actor=world.ruth, name=world.runner.name, reason="aired")
    world.runner.refresh_from_db()
    assert (world.runner.state, world.runner.quarantine_cause) == ("active", "")


def test_evidence_from_a_runner_in_quarantine_earns_no_award_and_aa_evidence_never_does(world: World) -> None:
    sample = aa_run(world, 0.3)
    assert (
        sample.run.evidence.is_award_eligible is True
    )  # measured before anybody doubted it; its submission is none
    assert aa_run(world).run.evidence.is_award_eligible is False


def test_samples_are_never_changed(world: World) -> None:
    sample = aa_run(world)
    for change in (lambda: NoiseSample.objects.update(noise_log_ppm=1), sample.delete):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_runs_since_the_last_good_aa_run_are_in_doubt_once_the_runner_drifts(world: World) -> None:
    before = world.confirmed(world.ann, DIFF)
    aa_run(world)
    gain = world.confirmed(world.bob, diff_of_line(5, "step_5 = 55"))
    world.gate(world.submit(world.bob, diff_of_line(6, "step_6 = 66")), 0.0)  # no gain: nothing to pay
    assert runs_in_doubt(world.runner) == []
    aa_run(world, 0.3)
    doubted = runs_in_doubt(world.runner)
    assert {run.submission_id for run in doubted} == {gain.pk}
    assert [run.kind for run in doubted] == ["gate", "confirmation", "guard"]
    assert before.pk not in {run.submission_id for run in doubted}
    release(actor=world.mira, name=world.runner.name, reason="cleaned its fan")
    world.runner.refresh_from_db()
    assert len(runs_in_doubt(world.runner)) == 3  # the doubt outlives the quarantine


def test_a_runner_that_was_quarantined_for_something_else_leaves_no_doubt(world: World) -> None:
    world.confirmed(world.ann, DIFF)
    quarantine(actor=world.mira, name=world.runner.name, reason="to be moved")
    world.runner.refresh_from_db()
    assert runs_in_doubt(world.runner) == []


def test_a_calibration_is_due_after_the_interval_when_the_runner_is_idle(
    world: World, settings: Settings
) -> None:
    settings.AA_INTERVAL_S = 3600
    age(world.runner, 0.9)
    assert schedule_calibrations() == []
    age(world.runner, 1.1)
    (run,) = schedule_calibrations()
    assert (run.kind, run.suite, run.preset) == ("aa", "moe_forward", "demo")
    assert (run.base_tree_id, run.bound_to_id) == (world.tree.pk, world.runner.pk)
    assert schedule_calibrations() == []  # one at a time
    assert "idle" in StateChange.objects.get(subject="run", subject_id=str(run.pk)).reason


def test_a_busy_runner_is_left_to_its_work_until_the_calibration_is_overdue(
    world: World, settings: Settings
) -> None:
    settings.AA_INTERVAL_S = 3600
    world.submit(world.ann, DIFF)
    age(world.runner, 1.5)
    assert schedule_calibrations() == []
    age(world.runner, 2.1)
    (run,) = schedule_calibrations()
    assert world.lease().pk == run.pk  # ahead of the person's run


def test_a_finished_calibration_starts_the_interval_again(world: World, settings: Settings) -> None:
    settings.AA_INTERVAL_S = 3600
    age(world.runner, 1.1)
    schedule_calibrations()
    world.judge(0.0)
    assert schedule_calibrations() == []
    assert len(calibrations("cpu")) == 1


def test_a_runner_in_quarantine_is_measured_twelve_times_as_often(world: World, settings: Settings) -> None:
    settings.AA_INTERVAL_S = 3600
    Runner.objects.filter(pk=world.runner.pk).update(state="quarantined", quarantine_cause="drift")
    age(world.runner, 0.05)
    assert schedule_calibrations() == []
    age(world.runner, 0.09)
    assert len(schedule_calibrations()) == 1


def test_only_what_open_bounties_of_its_hardware_pay_for_is_calibrated(world: World) -> None:
    world.open(title="The same", preset="demo")
    world.open(title="Larger", preset="standard")
    world.open(title="Elsewhere", hardware="h100")
    assert [(what.suite, what.preset) for what in calibrations("cpu")] == [
        ("moe_forward", "demo"),
        ("moe_forward", "standard"),
    ]
    assert calibrations("tpu") == []


def test_drained_and_retired_runners_are_not_calibrated(world: World) -> None:
    age(world.runner, 100)
    for state in ("draining", "drained", "retired"):
        Runner.objects.filter(pk=world.runner.pk).update(state=state)
        tasks.calibrate_runners()
    assert not Run.objects.exists()
    Runner.objects.filter(pk=world.runner.pk).update(state="active")
    tasks.calibrate_runners()
    assert Run.objects.get().state == RunState.QUEUED


def test_only_the_runner_that_it_is_bound_to_takes_a_calibration(world: World) -> None:
    other, _ = world.add_runner(generate_key())
    (what,) = calibrations("cpu")
    run = order_calibration(runner=other, what=what, reason="due")
    assert run is not None and order_calibration(runner=other, what=what, reason="due") is None
    with pytest.raises(NotLeasable):
        world.lease()
    assert world.lease(other).pk == run.pk
