"""The runner API, driven by the runner's own client: lease, trees, progress, log, commitment, evidence."""

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from django.test import Client
from rest_framework.test import APIClient

from benchmarks.evidence.commitment import commit
from benchmarks.evidence.signing import generate_key
from benchmarks.runner.client import LeasedRun, LeaseLost, NotLeasable, PlatformError, RunnerClient
from bounty.models import Run, RunState, RunVerdict, Submission
from bounty.services.awards.advance import advance_submission
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.synthetic import SECRET, invented_evidence

DIFF = diff_of_line(3, "step_3 = 33")
URL = "http://127.0.0.1"


def through_django(request: httpx.Request) -> httpx.Response:
    """The request as Django's own test client makes it, inside the test's transaction."""
    answer = Client().generic(
        request.method,
        request.url.raw_path.decode(),
        request.read(),
        content_type=request.headers.get("content-type", "application/octet-stream"),
        headers={"authorization": request.headers["authorization"]},
    )
    return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


@pytest.fixture
def runner(world: World) -> Iterator[RunnerClient]:
    client = RunnerClient(URL, world.token, transport=httpx.MockTransport(through_django))
    yield client
    client.close()


def job(run: LeasedRun) -> dict[str, str]:
    return {
        "id": run.run_id,
        "kind": run.kind,
        "suite": run.suite,
        "preset": run.preset,
        "base_tree": run.base_tree,
        "candidate_tree": run.candidate_tree,
        "nonce": run.nonce,
    }


def measure(world: World, runner: RunnerClient, speed_up_log: float) -> LeasedRun:
    """Act as a runner from wake-up to evidence, with invented samples."""
    run = runner.lease(str(uuid4()))
    for tree in run.trees.values():
        for entry in tree.entries:
            assert runner.blob(entry.blob)
    assert not runner.heartbeat(run, stage="preparing", pairs_done=0, pairs_max=48).cancel
    runner.commitment(run, commit(SECRET, run.nonce))
    runner.log(run, 0, "measuring\n")
    assert not runner.heartbeat(run, stage="gating", pairs_done=6, pairs_max=48).cancel
    runner.evidence(run, invented_evidence(key=world.key, run=job(run), speed_up_log=speed_up_log))
    return run


def test_a_runner_takes_a_gain_to_its_award(world: World, runner: RunnerClient) -> None:
    assert runner.me()["key_id"] == world.runner.key_id
    submission = world.submit(world.ann, DIFF)
    gate = measure(world, runner, 0.3)
    assert (gate.kind, gate.base_tree) == ("gate", world.tree.pk)
    assert gate.trees[gate.candidate_tree].hash == submission.candidate_tree_id
    advance_submission(submission_id=submission.pk)
    assert measure(world, runner, 0.3).kind == "confirmation"
    advance_submission(submission_id=submission.pk)
    assert measure(world, runner, 0.0).kind == "guard"
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == "confirmed"
    assert submission.awards.get().amount_microcredits > 0
    with pytest.raises(NotLeasable):
        runner.lease(str(uuid4()))


def test_evidence_posted_again_is_answered_again(world: World, runner: RunnerClient) -> None:
    world.submit(world.ann, DIFF)
    run = runner.lease(str(uuid4()))
    runner.commitment(run, commit(SECRET, run.nonce))
    sealed = invented_evidence(key=world.key, run=job(run))
    for _ in range(3):
        runner.evidence(run, sealed)
    assert RunVerdict.objects.count() == 1


def test_a_lost_lease_stops_every_call(world: World, runner: RunnerClient) -> None:
    world.submit(world.ann, DIFF)
    old = runner.lease(str(uuid4()))
    runner.lease(str(uuid4()))  # the runner was restarted and asked again
    sealed = invented_evidence(key=world.key, run=job(old))
    for call in (
        lambda: runner.heartbeat(old, stage="gating", pairs_done=1, pairs_max=48),
        lambda: runner.commitment(old, commit(SECRET, old.nonce)),
        lambda: runner.log(old, 0, "late\n"),
        lambda: runner.evidence(old, sealed),
        lambda: runner.failed(old, "crash", "late"),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert Run.objects.get().attempt == 2


def test_a_failure_queues_the_run_again(world: World, runner: RunnerClient) -> None:
    world.submit(world.ann, DIFF)
    run = runner.lease(str(uuid4()))
    runner.failed(run, "no_space", "the disk is full")
    assert Run.objects.get().state == RunState.QUEUED


def test_refused_evidence_has_its_code(world: World, runner: RunnerClient) -> None:
    world.submit(world.ann, DIFF)
    run = runner.lease(str(uuid4()))
    with pytest.raises(PlatformError) as refusal:
        runner.evidence(run, invented_evidence(key=world.key, run=job(run)))
    assert refusal.value.code == "evidence_refused"


def test_who_is_no_runner_gets_nowhere(world: World) -> None:
    world.submit(world.ann, DIFF)
    for header in ({}, {"HTTP_AUTHORIZATION": "Bearer gsr_" + "0" * 64}, {"HTTP_AUTHORIZATION": "Bearer x"}):
        client = APIClient()
        client.credentials(**header)
        answer = client.post("/api/v1/runner/lease/", {"run_id": str(uuid4())}, format="json")
        assert answer.status_code == 401, answer.content
        assert "0" * 20 not in answer.content.decode()
    assert Run.objects.get().state == RunState.QUEUED


def test_a_runner_token_is_no_key_for_people(world: World) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {world.token}")
    body = {"bounty": str(world.bounty.pk), "diff": DIFF}
    assert client.post("/api/v1/submissions/", body, format="json").status_code in (401, 403)
    assert not Submission.objects.exists()


@pytest.mark.parametrize("path", ["0" * 64, "x", "../../etc/passwd", "A" * 64])
def test_only_stored_blobs_are_served(world: World, path: str) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {world.token}")
    assert client.get(f"/api/v1/runner/blobs/{path}/").status_code == 404


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("heartbeat", {"stage": "sleeping"}),
        ("heartbeat", {"stage": "gating", "pairs_done": -1}),
        ("commitment", {"commitment": "short"}),
        ("log", {"offset": -1, "text": "x"}),
        ("log", {"offset": 0, "text": "x" * 300_000}),
        ("failed", {"code": ""}),
        ("evidence", {}),
    ],
)
def test_malformed_posts_are_refused(world: World, call: str, body: dict[str, object]) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {world.token}")
    answer = client.post(
        f"/api/v1/runner/runs/{run.pk}/{call}/", {"lease": str(run.lease), **body}, format="json"
    )
    assert answer.status_code == 400, answer.content
    run.refresh_from_db()
    assert run.state == RunState.LEASED


def test_a_confirmation_s_job_names_the_old_tree_and_brings_it(world: World, runner: RunnerClient) -> None:
    paid = world.vested(world.ann, DIFF)
    later = world.submit(world.bob, diff_of_line(7, "step_7 = 77"))
    measure(world, runner, 0.2)
    advance_submission(submission_id=later.pk)
    run = runner.lease(str(uuid4()))
    assert (run.kind, run.old_tree) == ("confirmation", world.tree.pk)
    assert run.old_paid_log_ppm == paid.awards.get().log_ppm_bound
    assert run.trees[run.old_tree].hash == world.tree.pk
    for entry in run.trees[run.old_tree].entries:
        assert runner.blob(entry.blob)


def test_a_confirmation_s_job_brings_the_author_s_earlier_confirmations(
    world: World, runner: RunnerClient
) -> None:
    first, second = world.submit(world.ann, DIFF), world.submit(world.ann, diff_of_line(7, "step_7 = 77"))
    world.gate_all(0.3, first, second)
    world.lease(world.add_runner(generate_key())[0])
    run = runner.lease(str(uuid4()))
    assert (run.kind, run.run_id) == ("confirmation", str(second.runs.get(kind="confirmation").pk))
    assert run.earlier_confirmations == {"count": 1, "lowest_log_ppm": None}


def test_maintainers_read_and_decide_about_a_slow_base(world: World) -> None:
    world.vested(world.ann, DIFF)
    later = world.submit(world.bob, diff_of_line(7, "step_7 = 77"))
    world.gate(later, 0.2)
    world.gate(later, 0.2, old_gain_log=-0.2)
    client = APIClient()
    assert client.get("/api/v1/slow-bases/").status_code in (401, 403)
    client.force_authenticate(world.bob)
    assert client.get("/api/v1/slow-bases/").status_code == 403
    client.force_authenticate(world.ruth)
    (row,) = client.get("/api/v1/slow-bases/?state=open").json()["results"]
    assert (row["lineage"], row["state"], row["answered_by"]) == (world.lineage.name, "open", None)
    path = f"/api/v1/slow-bases/{row['id']}/answer/"
    assert client.post(path, {"answer": "perhaps", "text": "x"}, format="json").status_code == 400
    answered = client.post(path, {"answer": "slow", "text": "slow since Monday"}, format="json")
    assert (answered.status_code, answered.json()["state"]) == (200, "slow")
    assert answered.json()["answered_by"] == world.ruth.username
