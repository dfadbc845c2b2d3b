"""Pull requests and their reviews."""

from __future__ import annotations

from bounty.github.standin import git
from bounty.github.standin.actions.test_merges import refresh_test_merge
from bounty.github.standin.records import PullRequest
from bounty.github.standin.rest.pages import page_of
from bounty.github.standin.rest.routing import Answer, Call, Refusal, route, unprocessable
from bounty.github.standin.shapes import pulls as shapes

SORTS = ("created", "updated", "popularity", "long-running")


@route("GET", "/repos/{owner}/{repo}/pulls", "pull_requests:read")
@route("GET", "/repositories/{repository_id}/pulls", "pull_requests:read")
def list_pulls(call: Call) -> Answer:
    wanted = call.query.get("state", "open")
    sort = call.query.get("sort", "created")
    if wanted not in ("open", "closed", "all"):
        raise unprocessable("PullRequest", "state", "invalid")
    if sort not in SORTS:
        raise unprocessable("PullRequest", "sort", "invalid")
    is_descending = call.query.get("direction", "desc" if sort == "created" else "asc") == "desc"
    found = [pull for pull in call.repository.pulls.values() if _is_wanted(call, pull, wanted)]
    found.sort(key=lambda pull: _place(pull, sort), reverse=is_descending)
    shown, headers = page_of(call, found)
    return Answer(200, [shapes.pull_request(call.hub.site, pull) for pull in shown], headers)


def _is_wanted(call: Call, pull: PullRequest, state: str) -> bool:
    head, base = call.query.get("head"), call.query.get("base")
    return (
        state in ("all", pull.state)
        and (head is None or head == f"{pull.source.owner.login}:{pull.branch}")
        and (base is None or base == pull.base)
    )


def _place(pull: PullRequest, sort: str) -> tuple[float, int]:
    at = pull.updated_at if sort == "updated" else pull.created_at
    return (len(pull.comments) if sort == "popularity" else at.timestamp(), pull.number)


@route("GET", "/repos/{owner}/{repo}/pulls/{pull_number}", "pull_requests:read")
@route("GET", "/repositories/{repository_id}/pulls/{pull_number}", "pull_requests:read")
def get_pull(call: Call) -> Answer:
    pull = pull_of(call, "pull_number")
    if pull.state == "open":
        refresh_test_merge(call.hub, pull)
    return Answer(200, shapes.full_pull_request(call.hub.site, pull, _counts(pull)))


def _counts(pull: PullRequest) -> tuple[int, int, int, int]:
    folder = pull.repository.folder
    base = git.merge_base(folder, pull.base_sha, pull.head_sha)
    if not base:
        return 0, 0, 0, 0
    commits = int(git.git(folder, "rev-list", "--count", f"{base}..{pull.head_sha}"))
    rows = [
        row.split("\t")
        for row in git.git(folder, "diff-tree", "-r", "--numstat", base, pull.head_sha).splitlines()
    ]
    added = sum(int(row[0]) for row in rows if row[0].isdigit())
    deleted = sum(int(row[1]) for row in rows if row[1].isdigit())
    return commits, added, deleted, len(rows)


@route("GET", "/repos/{owner}/{repo}/pulls/{pull_number}/reviews", "pull_requests:read")
@route("GET", "/repositories/{repository_id}/pulls/{pull_number}/reviews", "pull_requests:read")
def list_reviews(call: Call) -> Answer:
    pull = pull_of(call, "pull_number")
    shown, headers = page_of(call, pull.reviews)
    return Answer(200, [shapes.review(call.hub.site, pull, row) for row in shown], headers)


def pull_of(call: Call, name: str) -> PullRequest:
    """The pull request that the address names. Raises Refusal."""
    found = call.repository.pulls.get(call.integer(name))
    if found is None:
        raise Refusal(404, "Not Found")
    return found
