"""Fingerprints of runners, and the effect of a change."""

from typing import Any

import pytest

from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.patch.policy import harness_hash
from bounty.errors import BadRequest, NotLeasable
from bounty.models import QuarantineCause, Run, Runner, RunnerState, StateChange
from bounty.services.runners.calls import lease_run
from bounty.services.runners.fingerprints import differences
from bounty.services.runners.maintenance import release
from bounty.services.runners.registration import register_runner
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def machine(**changes: Any) -> dict[str, Any]:
    return {"cpu": "Some CPU (6/1/1)", "cores": 2, "devices": [], "harness": harness_hash(), **changes}


def ask(world: World, fingerprint: dict[str, Any]) -> Run:
    return lease_run(runner=world.runner, run_id=world.runner.pk, fingerprint=fingerprint)


def test_the_first_request_tells_it_and_the_same_again_changes_nothing(world: World) -> None:
    world.submit(world.ann, DIFF)
    ask(world, machine())
    since = Runner.objects.get(pk=world.runner.pk).history_since
    ask(world, machine())
    runner = Runner.objects.get(pk=world.runner.pk)
    assert (runner.fingerprint, runner.history_since) == (machine(), since)
    notes = StateChange.objects.filter(subject="runner", reason__startswith="fingerprint")
    assert notes.count() == 1 and "Some CPU" in notes.get().reason


def test_other_hardware_behind_the_same_token_is_quarantined_with_a_new_history(world: World) -> None:
    world.submit(world.ann, DIFF)
    ask(world, machine())
    since = Runner.objects.get(pk=world.runner.pk).history_since
    with pytest.raises(NotLeasable):
        ask(world, machine(cores=4, cpu="Another CPU"))
    runner = Runner.objects.get(pk=world.runner.pk)
    assert (runner.state, runner.quarantine_cause) == ("quarantined", QuarantineCause.FINGERPRINT)
    assert runner.history_since > since and runner.fingerprint["cores"] == 4
    change = StateChange.objects.get(subject="runner", new="quarantined", old="active")
    assert "cores 2 -> 4" in change.reason and "Some CPU (6/1/1) -> Another CPU" in change.reason
    # What it held was given back: no one trusts a run that began on one machine and went on on another.
    assert Run.objects.get().state == "queued"
    release(actor=world.mira, name=runner.name, reason="the new processor is known")
    assert ask(world, machine(cores=4, cpu="Another CPU")).runner_id == runner.pk


def test_a_machine_that_goes_back_is_a_change_like_any_other(world: World) -> None:
    for cores in (2, 4):
        with pytest.raises(NotLeasable):
            ask(world, machine(cores=cores))
    release(actor=world.mira, name=world.runner.name, reason="four cores, then")
    with pytest.raises(NotLeasable):
        ask(world, machine(cores=2))
    assert Runner.objects.get(pk=world.runner.pk).state == RunnerState.QUARANTINED


def test_another_version_of_the_judge_gets_no_work_but_no_quarantine_either(world: World) -> None:
    world.submit(world.ann, DIFF)
    ask(world, machine())
    with pytest.raises(NotLeasable, match="Install the same version"):
        ask(world, machine(harness="0" * 64))
    assert Runner.objects.get(pk=world.runner.pk).state == RunnerState.ACTIVE
    assert ask(world, machine()).runner_id == world.runner.pk


def test_a_new_version_of_the_judge_starts_the_noise_history_again(world: World) -> None:
    with pytest.raises(NotLeasable):
        ask(world, machine(harness="0" * 64))
    since = Runner.objects.get(pk=world.runner.pk).history_since
    with pytest.raises(NotLeasable, match="No run waits"):
        ask(world, machine())
    assert Runner.objects.get(pk=world.runner.pk).history_since > since


def test_a_runner_that_was_registered_with_its_machine_is_held_to_it(world: World) -> None:
    world.runner, _ = register_runner(
        actor=world.mira,
        name="rack-7",
        hardware="cpu",
        public_key=public_key(generate_key()),
        fingerprint=machine(),
    )
    with pytest.raises(NotLeasable):
        ask(world, machine(devices=["NVIDIA H100"]))
    assert (
        "devices none -> NVIDIA H100"
        in StateChange.objects.filter(subject_id=world.runner.pk).latest("pk").reason
    )


@pytest.mark.parametrize("fingerprint", [{"cpu": {"a": 1}}, {"load": 0.5}, {"cpu": "x" * 5000}, {"a": [[1]]}])
def test_a_fingerprint_is_small_and_flat(world: World, fingerprint: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        ask(world, fingerprint)


def test_differences_are_told_in_words() -> None:
    assert differences({"a": 1, "b": [], "c": "x"}, {"a": 2, "b": ["y", "z"]}) == [
        "a 1 -> 2",
        "b none -> y, z",
        "c x -> none",
    ]
