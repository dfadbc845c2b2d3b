"""The REST API as people use it: with API keys, JSON in and out, and errors in one shape."""

from typing import Any
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from bounty.models import Submission
from bounty.services.submissions import find_submission
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from tests.bounty.bounty_world import World, diff_of_line, make_user

DIFF = diff_of_line(3, "step_3 = 33")
BASE = "/api/v1/"


def client_of(user: User | None, *scopes: str) -> APIClient:
    """A client with an API key of `user`, with all scopes of the role unless some are named."""
    client = APIClient()
    if user is not None:
        _, raw = create_api_key(user=user, name="test", scopes=list(scopes or sorted(user.allowed_scopes)))
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def get(client: APIClient, path: str, status: int = 200, **query: Any) -> Any:
    answer = client.get(BASE + path, query)
    assert answer.status_code == status, answer.content
    return answer.json()


def post(client: APIClient, path: str, status: int, **body: Any) -> Any:
    answer = client.post(BASE + path, body, format="json")
    assert answer.status_code == status, answer.content
    return answer.json() if answer.content else None


def code(answer: Any) -> str:
    return str(answer["error"]["code"])


def test_a_maintainer_opens_a_bounty_over_rest(world: World) -> None:
    mira = client_of(world.mira)
    tree = post(mira, "trees/", 201, base=world.tree.pk, diff=diff_of_line(1, "step_1 = 100"))["hash"]
    lineage = post(mira, "lineages/", 201, name="fresh", is_demo=True, base_tree=tree)
    assert (lineage["tip"], lineage["is_demo"]) == (tree, True)
    bounty = post(
        mira,
        "bounties/",
        201,
        title="Faster",
        lineage="fresh",
        suite="moe_forward",
        preset="demo",
        hardware="cpu",
        escrow_microcredits=1_000_000,
        rate_microcredits_per_nat=2_000_000,
    )
    assert bounty["escrow"] == {"posted": 1_000_000, "reserved": 0, "available": 1_000_000}
    assert (bounty["state"], bounty["patch_base"], bounty["measured_base"]) == ("open", tree, tree)
    listed = get(APIClient(), "bounties/", state="open")
    assert bounty["id"] in [row["id"] for row in listed["results"]]
    more = post(
        mira, f"bounties/{bounty['id']}/fund/", 200, transfer_id=str(uuid4()), amount_microcredits=500
    )
    assert more["escrow"]["available"] == 1_000_500
    assert post(mira, f"bounties/{bounty['id']}/close/", 200)["state"] == "closed"


def test_who_may_do_what(world: World) -> None:
    ann, nobody, reader = client_of(world.ann), APIClient(), client_of(world.ann, "read")
    body = {"bounty": str(world.bounty.pk), "diff": DIFF}
    post(nobody, "submissions/", 401, **body)
    post(reader, "submissions/", 403, **body)
    post(ann, "lineages/", 403, name="mine")
    post(ann, "bounties/", 403, title="x")
    post(ann, f"bounties/{world.bounty.pk}/close/", 403)
    post(ann, "runners/", 403, name="mine", public_key="x")
    post(client_of(world.mira, "submit"), "lineages/", 403, name="mine")
    for path in ("bounties/", "submissions/", "runs/", "awards/", "runners/", "lineages/"):
        get(nobody, path)
    assert not Submission.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"escrow_microcredits": 0}, "escrow_microcredits"),
        ({"rate_microcredits_per_nat": "many"}, "rate_microcredits_per_nat"),
        ({"hardware": "not a slug"}, "hardware"),
        ({"title": ""}, "title"),
        ({"review_window_s": -1}, "review_window_s"),
    ],
)
def test_an_impossible_bounty_is_refused_by_field(world: World, change: dict[str, Any], field: str) -> None:
    body = {
        "title": "Faster",
        "lineage": world.lineage.name,
        "suite": "moe_forward",
        "preset": "demo",
        "escrow_microcredits": 1,
        "rate_microcredits_per_nat": 1,
    }
    answer = post(client_of(world.mira), "bounties/", 400, **{**body, **change})
    assert field in answer["error"]["details"]


def test_an_unknown_suite_preset_lineage_or_tree_is_refused(world: World) -> None:
    mira = client_of(world.mira)
    body: dict[str, Any] = {
        "title": "Faster",
        "lineage": world.lineage.name,
        "suite": "moe_forward",
        "preset": "demo",
        "escrow_microcredits": 1,
        "rate_microcredits_per_nat": 1,
    }
    assert code(post(mira, "bounties/", 400, **{**body, "suite": "sorting"})) == "invalid"
    assert code(post(mira, "bounties/", 400, **{**body, "preset": "huge"})) == "invalid"
    assert code(post(mira, "bounties/", 404, **{**body, "lineage": "none"})) == "not_found"
    assert code(post(mira, "lineages/", 404, name="x", base_tree="0" * 64)) == "not_found"
    assert code(post(mira, "lineages/", 400, name="x", base_tree="main")) == "invalid"
    assert code(post(mira, "lineages/", 400, name="../x")) == "invalid"
    broke = {**body, "escrow_microcredits": 10**17}
    assert code(post(mira, "bounties/", 409, **broke)) == "insufficient_treasury"


def test_a_preset_with_fewer_guards_is_refused_outside_demo_lineages(world: World) -> None:
    mira = client_of(world.mira)
    post(mira, "lineages/", 201, name="served", base_tree=world.tree.pk)
    body: dict[str, Any] = {
        "title": "Faster",
        "suite": "moe_forward",
        "preset": "tour",
        "escrow_microcredits": 1,
        "rate_microcredits_per_nat": 1,
    }
    refused = post(mira, "bounties/", 400, **body, lineage="served")
    assert code(refused) == "invalid" and "demo lineages only" in refused["error"]["message"]
    post(mira, "bounties/", 201, **body, lineage=world.lineage.name)


def test_a_submission_from_queue_to_award_over_rest(world: World) -> None:
    ann, ruth, anybody = client_of(world.ann), client_of(world.ruth), APIClient()
    made = post(ann, "submissions/", 201, bounty=str(world.bounty.pk), diff=DIFF)
    path = f"submissions/{made['id']}/"
    assert (made["state"], made["verdict"], made["award"]) == ("being_judged", None, None)
    assert made["queue"]["position"] == 0
    assert made["base_tree"] == world.tree.pk != made["candidate_tree"]
    submission = find_submission(made["id"])

    world.gate(submission, 0.3)
    seen = get(anybody, path)
    assert (seen["state"], seen["looks"], seen["runs"]) == ("being_judged", 1, [])
    seen = get(ruth, path)
    assert (seen["state"], seen["verdict"], seen["award"]) == ("confirming", None, None)
    assert [(run["kind"], run["state"]) for run in seen["runs"]] == [
        ("gate", "finished"),
        ("confirmation", "queued"),
    ]

    world.gate(submission, 0.3)
    seen = get(ruth, path)
    assert (seen["state"], seen["stage"]) == ("confirming", "confirming: guard rails")
    assert get(anybody, path)["stage"] == "being_judged"
    assert (seen["verdict"], seen["award"]) == (None, None)

    world.guard(submission)
    seen = get(anybody, path)
    assert seen["state"] == seen["stage"] == "confirmed"
    assert seen["verdict"]["kind"] == "gain" and seen["verdict"]["log_ppm_bound"] > 280_000
    assert seen["award"]["state"] == "unvested" and seen["award"]["amount_microcredits"] > 5_000_000
    board = get(anybody, f"bounties/{world.bounty.pk}/leaderboard/")
    assert [(row["rank"], row["submitter"], row["submission"]) for row in board] == [
        (1, world.ann.username, made["id"])
    ]
    assert 1.3 < board[0]["speed_up"] < 1.36

    assert code(post(ann, path + "review/", 403, decision="accept")) == "not_allowed"
    post(ruth, path + "review/", 200, decision="accept", comment="reads well")
    done = post(ruth, path + "merge/", 200)
    assert (done["state"], done["award"]["state"]) == ("vested", "vested")
    line = get(anybody, f"lineages/{world.lineage.name}/")
    assert line["tip"] == done["candidate_tree"]
    assert line["moves"][-1]["reason"] == f"merged submission {made['id']}"
    assert done["reviews"][0]["reviewer"] == world.ruth.username
    assert [change["new"] for change in done["changes"]] == [
        "received",
        "checked",
        "queued",
        "judging",
        "judged",
        "confirming",
        "confirmed",
        "accepted",
        "vested",
    ]
    assert all(change["reason"] for change in done["changes"])
    assert get(anybody, "awards/", submitter=world.ann.username)["count"] == 1
    back = post(ruth, path + "reverse/", 200, reason="the gain was not real")
    assert (back["state"], back["award"]["state"]) == ("reversed", "reversed")


def test_a_rejected_diff_answers_201_with_its_verdict(world: World) -> None:
    made = post(client_of(world.ann), "submissions/", 201, bounty=str(world.bounty.pk), diff="a\0b")
    assert made["state"] == "rejected"
    assert made["verdict"]["kind"] == "patch_rejected"
    assert made["runs"] == []
    log = get(client_of(world.ann), f"submissions/{made['id']}/log/")
    assert log == {"offset": 0, "next_offset": 0, "text": "", "is_final": True}


@pytest.mark.parametrize(
    "body", [{}, {"diff": DIFF}, {"bounty": "x", "diff": DIFF}, {"diff": 7}, {"diff": None}]
)
def test_a_malformed_submission_is_refused(world: World, body: dict[str, Any]) -> None:
    given = {"bounty": str(world.bounty.pk)} | body if "diff" in body and body["diff"] != DIFF else body
    assert code(post(client_of(world.ann), "submissions/", 400, **given)) == "invalid"


def test_an_unknown_bounty_a_closed_one_and_a_stale_base_have_their_codes(world: World) -> None:
    ann, mira = client_of(world.ann), client_of(world.mira)
    assert code(post(ann, "submissions/", 404, bounty=str(uuid4()), diff=DIFF)) == "not_found"
    stale = post(ann, "submissions/", 409, bounty=str(world.bounty.pk), diff=DIFF, base_tree="0" * 64)
    assert code(stale) == "rebase" and world.tree.pk in stale["error"]["message"]
    post(mira, f"bounties/{world.bounty.pk}/close/", 200)
    assert code(post(ann, "submissions/", 409, bounty=str(world.bounty.pk), diff=DIFF)) == "bounty_closed"


def test_an_oversized_body_is_refused_before_it_is_read_whole(world: World) -> None:
    answer = post(
        client_of(world.ann), "submissions/", 413, bounty=str(world.bounty.pk), diff="x" * 5_000_000
    )
    assert code(answer) == "body_too_large"


def test_figures_of_a_run_are_hidden_until_its_verdict(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = submission.runs.get()
    world.commit(world.lease())
    seen = get(client_of(world.ruth), f"runs/{run.pk}/")
    assert (seen["verdict"], seen["evidence"], seen["samples"]) == (None, None, [])
    assert code(get(APIClient(), f"runs/{run.pk}/", 403)) == "sealed"
    for person in (APIClient(), client_of(world.ann), client_of(world.ruth)):
        assert code(get(person, f"runs/{run.pk}/evidence/", 403)) == "sealed"
        assert code(get(person, f"submissions/{submission.pk}/evidence/", 403)) == "sealed"
    world.gate(submission, 0.0)
    seen = get(APIClient(), f"runs/{run.pk}/")
    assert seen["verdict"]["kind"] == "no_gain"
    assert seen["evidence"]["sandbox_level"] == "bubblewrap"
    measured = [row["log_ratio_ppb"] for row in seen["samples"] if not row["control"]]
    assert len(measured) == 48 and abs(sum(measured)) / 48 < 5_000_000
    document = get(APIClient(), f"runs/{run.pk}/evidence/")
    assert document["document"]["run"]["id"] == str(run.pk)
    assert document == get(APIClient(), f"submissions/{submission.pk}/evidence/")


def test_no_secret_of_a_run_is_ever_shown(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    assert run.lease is not None
    pages = [
        get(client_of(world.ruth), path)
        for path in (f"runs/{run.pk}/", f"submissions/{submission.pk}/", "runs/", "runners/")
    ]
    for page in pages:
        assert run.nonce not in str(page)
        assert str(run.lease) not in str(page)
        assert world.token not in str(page) and world.runner.token_hash not in str(page)


def test_the_log_is_followed_by_offset(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    path, ann = f"submissions/{submission.pk}/log/", client_of(world.ann)
    first = get(ann, path)
    assert first["text"].startswith("[gainshare] gate run")
    assert get(ann, path, offset=first["next_offset"])["text"] == ""
    assert code(get(ann, path, 400, offset="-1")) == "invalid"
    assert code(get(ann, path, 400, offset="x")) == "invalid"
    assert get(ann, f"runs/{submission.runs.get().pk}/log/")["text"] == first["text"]


def test_diff_tree_and_archive_come_back_as_they_are(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    ann = client_of(world.ann)
    answer = ann.get(f"{BASE}submissions/{submission.pk}/diff/")
    assert answer.content.decode() == DIFF
    tree = get(ann, f"trees/{submission.candidate_tree_id}/")
    assert (tree["hash"], tree["parent_tree"]) == (submission.candidate_tree_id, world.tree.pk)
    archive = ann.get(f"{BASE}trees/{submission.candidate_tree_id}/archive/")
    assert b"step_3 = 33\n" in archive.content
    get(APIClient(), f"trees/{'0' * 64}/", 404)


def test_lists_are_filtered(world: World) -> None:
    mine = world.submit(world.ann, DIFF)
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    ann, ruth = client_of(world.ann), client_of(world.ruth)
    assert [row["id"] for row in get(ann, "submissions/", submitter="me")["results"]] == [str(mine.pk)]
    assert get(ann, "submissions/", bounty=str(world.bounty.pk), state="being_judged")["count"] == 2
    assert get(ruth, "submissions/", bounty=str(world.bounty.pk), state="queued")["count"] == 2
    assert get(ann, "submissions/", bounty=str(uuid4()))["count"] == 0
    assert get(ann, "submissions/", 400, bounty="x")["error"]["code"] == "invalid"
    assert get(ruth, "runs/", kind="gate", state="queued")["count"] == 2
    assert get(ann, "awards/", 400, bounty="x")["error"]["code"] == "invalid"


def test_withdrawing_over_rest(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    path = f"submissions/{submission.pk}/withdraw/"
    assert code(post(client_of(world.bob), path, 403)) == "not_allowed"
    assert post(client_of(world.ann), path, 200)["state"] == "withdrawn"


def test_a_runner_is_registered_and_retired_over_rest(world: World) -> None:
    mira = client_of(world.mira)
    key = "A" * 43 + "="
    made = post(mira, "runners/", 201, name="bench-1", hardware="cpu", public_key=key)
    assert made["token"].startswith("gsr_")
    assert code(post(mira, "runners/", 409, name="bench-1", public_key=key)) == "runner_exists"
    assert code(post(mira, "runners/", 400, name="bench-2", public_key="short")) == "invalid"
    assert "token" not in get(APIClient(), "runners/bench-1/")
    runner = APIClient()
    runner.credentials(HTTP_AUTHORIZATION=f"Bearer {made['token']}")
    assert get(runner, "runner/me/")["name"] == "bench-1"
    assert post(mira, "runners/bench-1/state/", 200, state="retired", reason="old")["state"] == "retired"
    get(runner, "runner/me/", 401)
    assert code(post(mira, "runners/bench-1/state/", 409, state="active")) == "wrong_state"


def test_an_aa_run_is_ordered_by_a_maintainer(world: World) -> None:
    body = {"suite": "moe_forward", "preset": "demo", "tree": world.tree.pk}
    post(client_of(world.ann), "runs/", 403, **body)
    made = post(client_of(world.mira), "runs/", 201, **body)
    assert (made["kind"], made["submission"], made["state"]) == ("aa", None, "queued")
    run = world.judge(0.0)
    assert str(run.pk) == made["id"]
    assert get(APIClient(), f"runs/{made['id']}/")["verdict"]["kind"] == "no_gain"


def test_only_maintainers_make_trees_beyond_the_policy(world: World) -> None:
    outside = (
        "diff --git a/benchmarks/judging/judge.py b/benchmarks/judging/judge.py\nnew file mode 100644\n"
        "--- /dev/null\n+++ b/benchmarks/judging/judge.py\n@@ -0,0 +1,1 @@\n+x = 1\n"
    )
    person = make_user("person")
    assert code(post(client_of(person), "trees/", 400, base=world.tree.pk, diff=outside)) == "outside"
    assert code(post(client_of(person), "trees/", 400, base=world.tree.pk, diff="nonsense")) != "outside"
    post(client_of(world.mira), "trees/", 201, base=world.tree.pk, diff=outside)


def test_the_schema_names_every_address(client: Any) -> None:
    from drf_spectacular.generators import SchemaGenerator

    schema = SchemaGenerator().get_schema(request=None, public=True)
    for path in ("submissions/", "submissions/{id}/review/", "runner/lease/", "bounties/{id}/leaderboard/"):
        assert f"/api/v1/{path}" in schema["paths"], sorted(schema["paths"])


def test_who_is_no_maintainer_makes_so_many_trees_an_hour(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bounty.api.trees.TREES_PER_HOUR", 2)
    person, other, mira = make_user("person"), make_user("other"), client_of(world.mira)
    for number in (7, 8):
        post(client_of(person), "trees/", 201, base=world.tree.pk, diff=diff_of_line(1, f"step_1 = {number}"))
    refused = client_of(person).post(f"{BASE}trees/", {"base": world.tree.pk}, format="json")
    assert (refused.status_code, code(refused.json())) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    post(client_of(other), "trees/", 201, base=world.tree.pk)
    for _ in range(3):
        post(mira, "trees/", 201, base=world.tree.pk)
