"""What the stand-in accepts, answers and sends is what GitHub's own description says. Long: it comes from npm."""

from typing import Any

import httpx
import pytest

from bounty.github.standin.keys import key_pair
from bounty.github.standin.records import Recorded
from tests.bounty.github.standin.conftest import Place
from tests.bounty.github.standin.octokit import DESCRIPTION, Description, unpacked

pytestmark = pytest.mark.long

REFUSED = {301, 307, 401, 403, 404, 422}
"""Statuses that GitHub gives and its description does not list for each operation."""
CHECK = {
    "name": "Gainshare: moe_forward",
    "external_id": "gainshare:1:verdict",
    "details_url": "http://127.0.0.1:8000/submissions/1/",
    "output": {"title": "Waits", "summary": "Place 1", "text": "more"},
}


@pytest.fixture(scope="session")
def description(tmp_path_factory: pytest.TempPathFactory) -> Description:
    return Description(unpacked(DESCRIPTION, tmp_path_factory.mktemp("openapi")))


def _story(place: Place) -> None:
    """Every operation once, also refused, and every event."""
    standin, app = place.standin, place.app()
    pull = place.pull(body="Gainshare-Bounty: B1", title="Faster")
    draft = place.pull(branch="draft", is_draft=True)
    own = standin.open_pull_request(place.repository, place.mira, {"model/x.py": "x\n"}, from_fork=False)
    standin.set_draft(draft, False)
    standin.set_draft(draft, True)
    standin.edit(pull, title="Faster still", body="text")
    standin.push_to(pull, {"model/more.py": "y\n"})
    comment = standin.comment(pull, place.cora, "/judge")
    standin.edit_comment(pull, comment, "/judge B1")
    review = standin.review(pull, place.mira, body="good")
    standin.dismiss(pull, review, by=place.mira)
    for path in ("/app", "/app/installations", f"/app/installations/{place.opened.github_id}"):
        place.ask("GET", path, headers=app)
    place.ask("GET", "/repos/octo/model/installation", headers=app)
    for path in ("/installation/repositories", "/rate_limit", "/users/cora", f"/user/{place.cora.github_id}"):
        place.ask("GET", path)
    place.ask("GET", f"/repositories/{place.repository.github_id}/pulls/1")
    place.get("")
    place.get("/collaborators/mira/permission")
    place.get("/collaborators/nobody-of-this-name/permission")
    place.get("/pulls", state="all", sort="updated", direction="desc", per_page=2, page=1)
    for number in (1, 2, 3, 9):
        place.get(f"/pulls/{number}")
    place.get("/pulls/1/reviews", per_page=100)
    _comments(place)
    _checks(place, pull.head_sha)
    _checks(place, own.head_sha)
    standin.delete_comment(pull, comment)
    standin.close_pull_request(draft)
    standin.reopen(draft)
    standin.merge(own, place.mira, "squash")
    queued = standin.enqueue(pull, place.mira)
    standin.land(pull, queued, place.mira)
    standin.revert(place.repository, queued, place.mira)
    place.get("/pulls/1")
    _people(place)
    _installations(place)


def _comments(place: Place) -> None:
    made = place.post("/issues/1/comments", {"body": "ours"}).json()
    place.post("/issues/1/comments", {"body": "x" * 65_537})
    place.post("/issues/99/comments", {"body": "x"})
    place.get("/issues/1/comments", since="2020-01-01T00:00:00Z", per_page=1, page=2)
    one = f"/issues/comments/{made['id']}"
    place.get(one)
    place.ask("PATCH", f"/repos/octo/model{one}", json={"body": "ours again"})
    for content in ("eyes", "eyes", "no such reaction"):
        place.post(f"{one}/reactions", {"content": content})
    place.get(f"{one}/reactions")
    place.get("/issues/1/comments")


def _checks(place: Place, sha: str) -> None:
    made = place.post("/check-runs", {**CHECK, "head_sha": sha, "status": "queued"}).json()
    place.post("/check-runs", {**CHECK, "head_sha": "0" * 40})
    path = f"/repos/octo/model/check-runs/{made['id']}"
    place.ask("PATCH", path, json={**CHECK, "status": "in_progress"})
    place.get(f"/check-runs/{made['id']}")
    for conclusion in ("success", "failure", "neutral", "cancelled", "action_required", "timed_out"):
        place.ask("PATCH", path, json={**CHECK, "status": "completed", "conclusion": conclusion})
    place.get(f"/commits/{sha}/check-runs", filter="all", per_page=100, page=1, check_name=CHECK["name"])  # type: ignore[arg-type]


def _people(place: Place) -> None:
    token = {"Authorization": f"Bearer {place.standin.user_token(place.cora)}"}
    place.ask("GET", "/user", headers=token)
    place.ask("GET", "/user/emails", headers=token)


def _installations(place: Place) -> None:
    standin = place.standin
    other = standin.add_repository("octo/other")
    standin.open_to_app(place.opened, other)
    standin.close_to_app(place.opened, other)
    standin.rename_repository(place.repository, "engine")
    place.get("/pulls")
    standin.set_permissions(place.opened, {**place.opened.permissions, "issues": "read"})
    standin.suspend(place.opened)
    place.get("")
    place.ask("GET", "/app/installations", headers=place.app())
    standin.unsuspend(place.opened)
    standin.set_hook("http://127.0.0.1:9/hook/")
    standin.comment(place.repository.pulls[1], place.cora, "not received")
    standin.deliveries.settle()
    listed = place.ask("GET", "/app/hook/deliveries", headers=place.app()).json()
    place.ask("POST", f"/app/hook/deliveries/{listed[0]['id']}/attempts", headers=place.app())
    standin.deliveries.settle()
    manifest = {
        "name": "Ours",
        "url": standin.url,
        "redirect_url": standin.url,
        "default_events": standin.app.events,
    }
    code = httpx.post(
        f"{standin.url}/settings/apps/new",
        data={"manifest": httpx.Request("POST", "http://x", json=manifest).content.decode()},
    ).headers["Location"].rpartition("code=")[2]  # fmt: skip
    made = place.ask("POST", f"/app-manifests/{code}/conversions")
    assert made.json()["pem"] == key_pair()[0]
    standin.remove(place.opened)


def _differences(description: Description, row: Recorded) -> list[str]:
    path = row.path
    template, _ = description.operation(row.method, path)
    told = []
    if row.status < 400:
        unknown = set(row.query) - description.parameters(template, row.method)
        told += [f"query {name} is not GitHub's" for name in sorted(unknown)]
        asked = description.request_schema(template, row.method)
        if asked is not None and row.body is not None:
            told += [f"asked: {text}" for text in description.problems(asked, row.body)]
    answered = description.answer_schema(template, row.method, row.status)
    if answered is not None:
        told += [f"answered: {text}" for text in description.problems(answered, row.answer)]
    elif (
        row.status not in REFUSED
        and str(row.status) not in description.document["paths"][template][row.method.lower()]["responses"]
    ):
        told.append(f"status {row.status} is not GitHub's")
    return [f"{row.method} {path} {row.status} {text}" for text in told]


def test_what_is_asked_and_answered_is_as_github_describes_it(place: Place, description: Description) -> None:
    _story(place)
    rows = [row for row in place.standin.requests if "git-" not in row.path and row.path != "/info/refs"]
    used = {(row.method, description.operation(row.method, row.path)[0]) for row in rows}
    assert len(used) >= 25
    problems = sorted({text for row in rows for text in _differences(description, row)})
    assert problems == []


def test_what_is_sent_is_as_github_describes_it(place: Place, description: Description) -> None:
    place.standin.app.events += ["check_run"]
    _story(place)
    problems: set[str] = set()
    compared: set[str] = set()
    for row in place.standin.deliveries.all:
        name = "-".join([row.event, row.action]).replace("_", "-").rstrip("-")
        assert name in description.events, name
        compared.add(name)
        problems |= {f"{name} {text}" for text in description.problems(description.events[name], row.payload)}
    assert {
        "check-run-completed", "installation-suspend", "installation-repositories-added", "issue-comment-edited",
        "merge-group-checks-requested", "pull-request-closed", "pull-request-synchronize",
        "pull-request-review-submitted", "push", "repository-renamed",
    } <= compared  # fmt: skip
    assert sorted(problems) == []


def test_a_difference_would_be_seen(place: Place, description: Description) -> None:
    place.pull()
    place.get("/pulls/1")
    (row,) = place.standin.asked("GET", "/pulls/1")
    assert _differences(description, row) == []
    for changed in ({"number": "1"}, {"user": None}, {"head": {}}, {"state": "merged"}):
        answer: dict[str, Any] = {**row.answer, **changed}
        other = Recorded(**{**row.__dict__, "answer": answer})
        assert _differences(description, other), changed
    odd = Recorded(**{**row.__dict__, "query": {"order": "newest"}})
    assert _differences(description, odd) == [f"GET {row.path} 200 query order is not GitHub's"]
