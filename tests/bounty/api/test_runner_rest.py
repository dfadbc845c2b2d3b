"""Runners, runs and switches over REST: permissions and answers."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from bounty.models import Run
from bounty.services.awards.advance import advance_submission
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def client_of(user: User | None = None) -> APIClient:
    client = APIClient()
    if user is not None:
        client.force_login(user)
    return client


def post(user: User | None, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = client_of(user).post(f"/api/v1/{path}", body, format="json")
    assert answer.status_code == status, answer.content
    return answer.json()


def get(path: str, status: int = 200) -> Any:
    answer = client_of().get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.content
    return answer.json()


def test_everyone_sees_how_a_runner_is(world: World) -> None:
    post(world.mira, f"runners/{world.runner.name}/calibrate/", {}, 201)
    run = world.judge(-0.3, units=12)
    seen = get(f"runners/{world.runner.name}/")
    assert (seen["state"], seen["quarantine_cause"], seen["current_run"]) == ("quarantined", "drift", None)
    assert [change["new"] for change in seen["changes"]] == ["active", "quarantined"]
    (sample,) = get(f"runners/{world.runner.name}/noise/")["results"]
    assert (sample["run"], sample["is_good"], sample["verdict_kind"]) == (str(run.pk), False, "regression")
    assert get(f"runners/{world.runner.name}/doubts/") == []
    assert get("runners/nobody/", 404)["error"]["code"] == "not_found"
    assert get("runners/nobody/doubts/", 404)["error"]["code"] == "not_found"
    assert get("runners/nobody/noise/")["results"] == []
    assert "token" not in str(seen) and "token_hash" not in str(seen)


def test_runs_in_doubt_are_listed(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    post(world.mira, f"runners/{world.runner.name}/calibrate/", {}, 201)
    world.judge(0.3, units=12)
    doubts = get(f"runners/{world.runner.name}/doubts/")
    assert {run["submission"] for run in doubts} == {str(submission.pk)}
    assert [run["kind"] for run in doubts] == ["gate", "confirmation", "guard"]


@pytest.mark.parametrize("action", ["drain", "resume", "quarantine", "release"])
def test_only_maintainers_act_on_runners_with_a_reason(world: World, action: str) -> None:
    path = f"runners/{world.runner.name}/{action}/"
    post(None, path, {"reason": "x"}, 401)
    post(world.ann, path, {"reason": "x"}, 403)
    assert post(world.mira, path, {}, 400)["error"]["details"]["reason"]
    assert post(world.mira, path, {"reason": "x"})["name"] == world.runner.name
    post(world.mira, "runners/nobody/drain/", {"reason": "x"}, 404)


def test_runs_are_cancelled_and_ordered_again(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = Run.objects.get()
    post(world.ann, f"runs/{run.pk}/cancel/", {"reason": "x"}, 403)
    cancelled = post(world.mira, f"runs/{run.pk}/cancel/", {"reason": "the wrong preset"})
    assert (cancelled["state"], cancelled["verdict"]) == ("finished", None)  # sealed: it is not decided
    run.refresh_from_db()
    assert run.verdict.kind == "infrastructure_error" and "the wrong preset" in run.verdict.reason
    advance_submission(submission_id=submission.pk)
    post(world.ann, f"runs/{run.pk}/rerun/", {"reason": "x"}, 403)
    new = post(world.mira, f"runs/{run.pk}/rerun/", {"reason": "mended"}, 201)
    assert (new["kind"], new["sequence"], new["state"]) == ("gate", 2, "queued")
    assert Run.objects.get(pk=run.pk).verdict.kind == "infrastructure_error"


def test_switches_are_pressed_and_lifted(world: World) -> None:
    assert [row["is_stopped"] for row in get("switches/")] == [False, False, False]
    post(world.ann, "switches/judging/stop/", {"reason": "x"}, 403)
    post(world.mira, "switches/judging/stop/", {}, 400)
    post(world.mira, "switches/coffee/stop/", {"reason": "x"}, 400)
    stopped = post(world.mira, "switches/judging/stop/", {"reason": "a leak"})
    assert (stopped["is_stopped"], stopped["actor"]) == (True, world.mira.username)
    assert {row["name"]: row["reason"] for row in get("switches/")}["judging"] == "a leak"
    assert post(world.ruth, "switches/judging/lift/", {})["is_stopped"] is False


def test_a_request_for_work_carries_the_machines_fingerprint(world: World) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {world.token}")
    body = {"run_id": str(world.runner.pk)}
    assert client.post("/api/v1/runner/lease/", body, format="json").status_code == 400
    world.submit(world.ann, DIFF)
    answer = client.post("/api/v1/runner/lease/", {**body, "fingerprint": {"cores": 2}}, format="json")
    assert answer.status_code == 200
    assert client.get("/api/v1/runner/me/").json()["fingerprint"] == {"cores": 2}
