"""The stand-in's REST API behaves as GitHub's does: pages, ETags, limits, refusals, permissions, moves."""

from datetime import timedelta

import httpx
import pytest

from tests.bounty.github.standin.conftest import Place

CHECK = {"name": "Judge", "output": {"title": "t", "summary": "s"}}


def test_lists_come_in_pages_that_lead_on(place: Place) -> None:
    pull = place.pull()
    for number in range(65):
        place.standin.comment(pull, place.cora, f"text {number}")
    first = place.get("/issues/1/comments")
    assert len(first.json()) == 30
    assert set(first.links) == {"next", "last"}
    seen, page = first.json(), first
    while "next" in page.links:
        page = httpx.get(page.links["next"]["url"], headers={"Authorization": f"token {place.token}"})
        seen += page.json()
    assert [row["body"] for row in seen] == [f"text {number}" for number in range(65)]
    assert set(page.links) == {"prev", "first"}
    assert len(place.get("/issues/1/comments", per_page=1000).json()) == 65
    assert place.get("/issues/1/comments", page=9).json() == []


def test_pull_requests_are_sorted_and_filtered(place: Place) -> None:
    for number in range(3):
        place.pull(branch=f"b{number}", title=f"t{number}")
        place.standin.pass_time(minutes=1)
    place.standin.comment(place.repository.pulls[1], place.cora, "hello")
    place.standin.close_pull_request(place.repository.pulls[2])
    listed = {
        "open": place.get("/pulls"),
        "all": place.get("/pulls", state="all", sort="updated", direction="desc"),
        "closed": place.get("/pulls", state="closed"),
        "head": place.get("/pulls", head="cora:b2"),
        "base": place.get("/pulls", base="other"),
        "oldest": place.get("/pulls", state="all", sort="updated"),
    }
    numbers = {name: [row["number"] for row in answer.json()] for name, answer in listed.items()}
    assert numbers["open"] == [3, 1]
    assert set(numbers["all"][:2]) == {1, 2}
    assert numbers["all"][2] == 3
    assert numbers["closed"] == [2]
    assert numbers["head"] == [3]
    assert numbers["base"] == []
    assert numbers["oldest"] == numbers["all"][::-1]
    assert place.get("/pulls", state="odd").status_code == 422


def test_what_did_not_change_is_not_sent_again_and_costs_nothing(place: Place) -> None:
    pull = place.pull()
    first = place.get("/pulls")
    again = place.ask("GET", "/repos/octo/model/pulls", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["X-RateLimit-Used"] == first.headers["X-RateLimit-Used"]
    place.standin.edit(pull, title="Other")
    changed = place.ask("GET", "/repos/octo/model/pulls", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]
    assert int(changed.headers["X-RateLimit-Used"]) == int(first.headers["X-RateLimit-Used"]) + 1


def test_limits_are_counted_reached_and_begin_again(place: Place) -> None:
    place.standin.hub.state.limits.per_hour = 3
    left = [place.get("").headers["X-RateLimit-Remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    refused = place.get("")
    assert refused.status_code == 403
    assert refused.json()["message"].startswith("API rate limit exceeded for installation ID")
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert place.ask("GET", "/rate_limit").json()["rate"]["remaining"] == 0
    place.standin.pass_time(minutes=61)
    place.token = place.new_token()
    assert place.get("").status_code == 200


def test_writing_fast_meets_a_secondary_limit_that_ends(place: Place) -> None:
    place.pull()
    place.standin.hub.state.limits.writes_per_minute = 2
    answers = [place.post("/issues/1/comments", {"body": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 403]
    assert "secondary rate limit" in answers[2].json()["message"]
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60
    assert place.get("").status_code == 200  # reading is not writing
    place.standin.pass_time(seconds=61)
    assert place.post("/issues/1/comments", {"body": "x"}).status_code == 201


def test_comments_are_written_found_since_and_edited(place: Place) -> None:
    pull = place.pull()
    theirs = place.standin.comment(pull, place.cora, "hello")
    place.standin.pass_time(minutes=1)
    made = place.post("/issues/1/comments", {"body": "first"})
    assert made.status_code == 201
    assert made.json()["user"]["login"] == "gainshare-local[bot]"
    since = (theirs.created_at + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [row["body"] for row in place.get("/issues/1/comments", since=since).json()] == ["first"]
    path = f"/repos/octo/model/issues/comments/{made.json()['id']}"
    assert place.ask("PATCH", path, json={"body": "second"}).json()["body"] == "second"
    foreign = f"/repos/octo/model/issues/comments/{theirs.github_id}"
    assert place.ask("PATCH", foreign, json={"body": "mine"}).status_code == 403
    assert theirs.body == "hello"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"body": "x" * 65_536}, 201),
        ({"body": "x" * 65_537}, 422),
        ({"body": " "}, 422),
        ({}, 422),
        ([], 400),
    ],
)
def test_comments_have_a_limit(place: Place, body: object, status: int) -> None:
    place.pull()
    assert place.post("/issues/1/comments", body).status_code == status


def test_a_reaction_is_made_once(place: Place) -> None:
    comment = place.standin.comment(place.pull(), place.cora, "/judge")
    path = f"/issues/comments/{comment.github_id}/reactions"
    assert [place.post(path, {"content": "eyes"}).status_code for _ in range(2)] == [201, 200]
    assert place.post(path, {"content": "love"}).status_code == 422
    assert [row["content"] for row in place.get(path).json()] == ["eyes"]


def test_check_runs_are_made_changed_and_listed(place: Place) -> None:
    pull = place.pull()
    made = place.post("/check-runs", {**CHECK, "head_sha": pull.head_sha, "external_id": "a"})
    assert (made.status_code, made.json()["status"], made.json()["pull_requests"]) == (201, "queued", [])
    path = f"/repos/octo/model/check-runs/{made.json()['id']}"
    done = place.ask("PATCH", path, json={"status": "completed", "conclusion": "success"}).json()
    assert (done["status"], done["conclusion"]) == ("completed", "success")
    assert done["completed_at"]
    again = place.post("/check-runs", {**CHECK, "head_sha": pull.head_sha, "external_id": "b"})
    listed = place.get(f"/commits/{pull.head_sha}/check-runs", filter="all").json()
    assert (listed["total_count"], [row["external_id"] for row in listed["check_runs"]]) == (2, ["b", "a"])
    latest = place.get(f"/commits/{pull.head_sha}/check-runs", check_name="Judge").json()
    assert [row["id"] for row in latest["check_runs"]] == [again.json()["id"]]
    assert place.get(f"/commits/{pull.head_sha}/check-runs", check_name="Other").json()["total_count"] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"head_sha": "0" * 40},
        {"head_sha": "main"},
        {"name": ""},
        {"status": "done"},
        {"status": "completed"},
        {"conclusion": "good"},
        {"output": {"title": "t"}},
        {"output": {"title": "x" * 256, "summary": "s"}},
        {"output": {"title": "t", "summary": "x" * 65_536}},
        {"output": {"title": "t", "summary": "s", "text": "x" * 65_536}},
    ],
)
def test_bad_check_runs_are_unprocessable(place: Place, changed: dict[str, object]) -> None:
    given = {**CHECK, "head_sha": place.pull().head_sha, **changed}
    assert place.post("/check-runs", given).status_code == 422
    assert not place.repository.checks


def test_permissions_decide_and_are_named(place: Place) -> None:
    pull = place.pull()
    place.token = place.new_token(checks="read", pull_requests="read")
    assert place.get("/pulls/1").status_code == 200
    refused = place.post("/check-runs", {**CHECK, "head_sha": pull.head_sha})
    assert (refused.status_code, refused.headers["X-Accepted-GitHub-Permissions"]) == (403, "checks=write")
    assert place.post("/issues/1/comments", {"body": "x"}).status_code == 403
    url = f"{place.standin.api_url}/app/installations/{place.opened.github_id}/access_tokens"
    more = httpx.post(url, headers=place.app(), json={"permissions": {"administration": "write"}})
    assert more.status_code == 422


def test_who_is_not_installed_may_not_write_and_sees_nothing_private(place: Place) -> None:
    other = place.standin.add_repository("pia/other")
    place.standin.open_pull_request(other, place.cora, {"a": "b"})
    assert place.ask("GET", "/repos/pia/other/pulls/1").status_code == 200
    assert place.ask("POST", "/repos/pia/other/issues/1/comments", json={"body": "x"}).status_code == 403
    other.is_private = True
    assert place.ask("GET", "/repos/pia/other/pulls/1").status_code == 404
    assert place.ask("GET", "/repos/nobody/nothing").status_code == 404


def test_suspended_and_removed_installations_lose_their_tokens(place: Place) -> None:
    url = f"{place.standin.api_url}/app/installations/{place.opened.github_id}/access_tokens"
    place.standin.suspend(place.opened)
    assert place.get("").status_code == 403
    assert httpx.post(url, headers=place.app()).json()["message"] == "This installation has been suspended"
    place.standin.unsuspend(place.opened)
    assert place.get("").status_code == 200
    place.standin.remove(place.opened)
    assert place.get("").status_code == 401
    assert httpx.post(url, headers=place.app()).status_code == 404
    assert place.ask("GET", "/app/installations", headers=place.app()).json() == []


@pytest.mark.parametrize("header", ["token ghs_forged", "Bearer ghs_forged", "Digest x", "Basic eDp5"])
def test_forged_tokens_are_refused(place: Place, header: str) -> None:
    assert place.ask("GET", "/repos/octo/model", headers={"Authorization": header}).status_code == 401


def test_a_token_ends_after_an_hour(place: Place) -> None:
    place.standin.pass_time(minutes=59)
    assert place.get("").status_code == 200
    place.standin.pass_time(minutes=2)
    assert place.get("").status_code == 401


def test_moved_repositories_are_redirected_with_the_query(place: Place) -> None:
    place.pull()
    place.standin.rename_repository(place.repository, "engine")
    moved = place.get("/pulls", state="all")
    number = place.repository.github_id
    assert moved.status_code == 301
    assert moved.headers["Location"] == f"{place.standin.api_url}/repositories/{number}/pulls?state=all"
    assert place.post("/issues/1/comments", {"body": "x"}).status_code == 307
    assert place.ask("GET", f"/repositories/{number}/pulls/1").status_code == 200
    thief = place.standin.add_repository("octo/model")
    assert place.get("").json()["id"] == thief.github_id


def test_all_that_was_asked_is_recorded_without_credentials(place: Place) -> None:
    place.pull()
    place.post("/issues/1/comments", {"body": "hello"})
    (row,) = place.standin.asked("POST", "/issues/1/comments")
    assert (row.body, row.status, row.answer["body"]) == ({"body": "hello"}, 201, "hello")
    assert place.token not in str(place.standin.asked("GET")) + str(row)
