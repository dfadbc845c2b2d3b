"""A base tree that fails on its own stops its lineage; no one's attempt and no runner pays for it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from benchmarks.evidence.signing import generate_key
from bounty.errors import BadRequest, BaseFailed, NotAllowed, NotFound, NotLeasable, WrongState
from bounty.models import BaseStop, QuarantineCause, Run, RunnerFailure, RunState
from bounty.services.blob_sweep import named_blobs
from bounty.services.runners.calibration_schedule import calibrations_of
from bounty.services.runs.lifecycle import queue_aa_run
from bounty.services.series.base_stops import release_lineage, stop_evidence
from bounty.services.submissions import attempts_used
from bounty.services.trees import create_lineage
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")
CRASH = {"kind": "crash", "stage": "call", "detail": "status 139"}
FAILED = {"pair": None, "failure": CRASH}
WORKED = {"pair": None, "failure": None}
BASE_CRASHED: dict[str, Any] = {"events": [{**CRASH, "side": "base"}]}
ON_ITS_OWN = BASE_CRASHED | {"base_checks": [FAILED, FAILED]}
# A pair of base alone that failed once, and worked when it was tried again.
ONCE = BASE_CRASHED | {"base_checks": [WORKED]}
NEXT_TO_THE_PATCH = {"events": [{**CRASH, "side": "base", "pair": 0}], "base_checks": [WORKED]}


def found(world: World, run: Run, **how: Any) -> Any:
    world.commit(run)
    return world.finish(run, 0.0, **how)


def stopped(world: World) -> Run:
    """A run that found the base tree failing on its own."""
    world.submit(world.ann, DIFF)
    run = world.lease()
    found(world, run, **ON_ITS_OWN)
    run.refresh_from_db()
    return run


def test_a_base_that_fails_on_its_own_stops_its_lineage(world: World) -> None:
    run = stopped(world)
    stop = world.lineage.standing_stop
    assert stop is not None and (stop.tree, stop.run) == (world.tree, run)
    assert "fails on its own" in stop.reason and "status 139" in stop.reason
    assert stop.evidence_blob in named_blobs()
    with pytest.raises(BaseFailed, match=r"is stopped: .*status 139"):
        world.submit(world.bob, diff_of_line(5, "step_5 = 55"))


def test_the_contributor_s_run_is_forgiven_and_waits(world: World) -> None:
    run = stopped(world)
    assert (run.state, run.forgiven, run.attempt) == (RunState.QUEUED, 1, 1)
    assert not hasattr(run, "verdict")
    with pytest.raises(NotLeasable):
        world.lease()
    release_lineage(actor=world.ruth, name=world.lineage.name, reason="the driver was repaired")
    again = world.lease()
    assert (again.pk, again.attempt, again.attempts_left) == (run.pk, 2, run.attempts_left - 1 + 0)
    assert attempts_used(bounty=world.bounty, person=world.ann) == 1  # the one that is open


def test_other_lineages_go_on(world: World) -> None:
    other = create_lineage(actor=world.mira, name="another", base_tree=world.tree.pk, is_demo=True)
    bounty = world.open(lineage=other.name)
    stopped(world)
    submission = world.submit(world.bob, DIFF, bounty)
    assert world.lease().submission == submission


def test_no_runner_pays_for_it(world: World) -> None:
    """Not even by runs of many people: a tree is broken, no machine is."""
    for number in range(4):
        lineage = create_lineage(
            actor=world.mira, name=f"line-{number}", base_tree=world.tree.pk, is_demo=True
        )
        world.submit(world.bob, DIFF, world.open(lineage=lineage.name))
        found(world, world.lease(), **ON_ITS_OWN)
    world.runner.refresh_from_db()
    assert world.runner.quarantine_cause == QuarantineCause.NONE
    assert not RunnerFailure.objects.exists()
    assert BaseStop.objects.filter(released_at=None).count() == 4


def test_a_base_that_failed_once_costs_an_attempt_of_the_run_and_no_runner(world: World) -> None:
    world.submit(world.ann, DIFF)
    for left in (2, 1, 0):
        run = world.lease()
        found(world, run, **ONCE)
        run.refresh_from_db()
        assert run.attempts_left == left
    assert (run.state, run.verdict.kind) == (RunState.FINISHED, "infrastructure_error")
    assert world.lineage.standing_stop is None
    assert not RunnerFailure.objects.exists()
    submission = world.advance(run.submission)  # type: ignore[arg-type]
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0, submission.state


def test_a_base_that_fails_next_to_the_patch_is_the_patch_s_attempt(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    found(world, run, **NEXT_TO_THE_PATCH)
    submission = world.advance(submission)
    assert (submission.state, submission.verdict_kind) == ("judged", "wrong_output")
    assert world.lineage.standing_stop is None
    assert attempts_used(bounty=world.bounty, person=world.ann) == 1


def test_a_calibration_that_finds_it_stops_every_lineage_of_that_tree(world: World) -> None:
    create_lineage(actor=world.mira, name="another", base_tree=world.tree.pk, is_demo=True)
    assert [each.tree for each in calibrations_of("cpu")] == [world.tree]
    queue_aa_run(
        suite="moe_forward", preset="demo", hardware="cpu", tree=world.tree, reason="x", runner=world.runner
    )
    run = world.lease()
    found(world, run, **ON_ITS_OWN)
    assert {stop.lineage.name for stop in BaseStop.objects.all()} == {world.lineage.name, "another"}
    world.runner.refresh_from_db()
    assert world.runner.quarantine_cause == QuarantineCause.NONE
    assert calibrations_of("cpu") == []
    with pytest.raises(NotLeasable):
        world.lease()


def test_only_maintainers_release_and_they_say_why(world: World) -> None:
    name = world.lineage.name
    with pytest.raises(WrongState, match="not stopped"):
        release_lineage(actor=world.mira, name=name, reason="x")
    stopped(world)
    with pytest.raises(NotAllowed):
        release_lineage(actor=world.ann, name=name, reason="x")
    with pytest.raises(BadRequest):
        release_lineage(actor=world.mira, name=name, reason="  ")
    with pytest.raises(NotFound):
        release_lineage(actor=world.mira, name="nowhere", reason="x")
    stop = release_lineage(actor=world.mira, name=name, reason="repaired")
    assert (stop.released_by, stop.release_reason) == (world.mira, "repaired")
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))


def test_a_tree_that_is_still_broken_stops_again(world: World) -> None:
    stopped(world)
    release_lineage(actor=world.ruth, name=world.lineage.name, reason="perhaps")
    found(world, world.lease(), **ON_ITS_OWN)
    assert BaseStop.objects.count() == 2 and world.lineage.standing_stop is not None


def test_the_database_keeps_one_stop_for_each_lineage(world: World) -> None:
    run = stopped(world)
    fields = {"lineage": world.lineage, "tree": world.tree, "run": run, "reason": "x"}
    with pytest.raises(IntegrityError), transaction.atomic():
        BaseStop.objects.create(**fields, evidence_digest="x", evidence_blob="x")


def test_what_showed_it_tells_nothing_of_the_patch(world: World) -> None:
    stopped(world)
    shown, client = stop_evidence(world.lineage.name), Client()
    assert shown.keys() == {"digest", "events", "base_checks"} and len(shown["base_checks"]) == 2
    path = f"/api/v1/lineages/{world.lineage.name}/stop/"
    assert client.get(path).status_code in (401, 403)
    for person, status in ((world.ann, 403), (world.ruth, 200)):
        client.force_login(person)
        assert client.get(path).status_code == status


def test_pages_and_rest_say_why(world: World) -> None:
    stopped(world)
    client = Client()
    assert "fails on its own" in client.get(f"/api/v1/lineages/{world.lineage.name}/").json()["stop_reason"]
    page = client.get(f"/lineages/{world.lineage.name}/").content.decode()
    assert "fails on its own" in page and "Release</button>" not in page
    assert "its base tree fails on its own" in client.get("/bounties/").content.decode()
    client.force_login(world.ruth)
    assert "Release</button>" in client.get(f"/lineages/{world.lineage.name}/").content.decode()
    refused = client.post(f"/lineages/{world.lineage.name}/release/", {"text": ""})
    assert refused.status_code == 409
    done = client.post(f"/lineages/{world.lineage.name}/release/", {"text": "repaired"})
    assert done.status_code == 302
    assert client.get(f"/api/v1/lineages/{world.lineage.name}/").json()["stop_reason"] == ""


def test_a_key_of_the_runner_is_needed(world: World) -> None:
    """No one else can stop a lineage."""
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    world.keys = dict.fromkeys(world.keys, generate_key())
    with pytest.raises(Exception, match="evidence is not valid"):
        world.finish(run, 0.0, **ON_ITS_OWN)
    assert not BaseStop.objects.exists()
