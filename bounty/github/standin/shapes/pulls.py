"""Pull requests, comments, reviews and reactions as JSON."""

from __future__ import annotations

from typing import Any

from bounty.github.standin.records import App, Comment, PullRequest, Repository, Review
from bounty.github.standin.shapes.accounts import app as app_shape
from bounty.github.standin.shapes.accounts import simple_user
from bounty.github.standin.shapes.links import Site, node_id, stamp
from bounty.github.standin.shapes.repositories import repository

CONTENTS = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")


def pull_request(site: Site, pull: PullRequest) -> dict[str, Any]:
    """A pull request as lists show it."""
    url, issue, page = site.pull(pull), site.issue(pull), site.pull_page(pull)
    statuses = f"{site.repository(pull.repository)}/statuses/{pull.head_sha}"
    links = {
        "self": url, "html": page, "issue": issue, "comments": f"{issue}/comments",
        "review_comments": f"{url}/comments", "review_comment": f"{site.repository(pull.repository)}/pulls/comments{{/number}}",
        "commits": f"{url}/commits", "statuses": statuses,
    }  # fmt: skip
    return {
        "url": url,
        "id": pull.github_id,
        "node_id": node_id("PullRequest", pull.github_id),
        "html_url": page,
        "diff_url": f"{page}.diff",
        "patch_url": f"{page}.patch",
        "issue_url": issue,
        "number": pull.number,
        "state": pull.state,
        "locked": False,
        "title": pull.title,
        "user": simple_user(site, pull.author),
        "body": pull.body or None,
        "created_at": stamp(pull.created_at),
        "updated_at": stamp(pull.updated_at),
        "closed_at": stamp(pull.closed_at),
        "merged_at": stamp(pull.merged_at),
        "merge_commit_sha": pull.merge_sha,
        "assignee": None,
        "assignees": [],
        "requested_reviewers": [],
        "requested_teams": [],
        "labels": [],
        "milestone": None,
        "draft": pull.is_draft,
        "commits_url": f"{url}/commits",
        "review_comments_url": f"{url}/comments",
        "review_comment_url": links["review_comment"],
        "comments_url": f"{issue}/comments",
        "statuses_url": statuses,
        "head": _end(site, pull.source, pull.branch, pull.head_sha),
        "base": _end(site, pull.repository, pull.base, pull.base_sha),
        "_links": {name: {"href": address} for name, address in links.items()},
        "author_association": association(pull),
        "auto_merge": None,
        "active_lock_reason": None,
    }


def full_pull_request(site: Site, pull: PullRequest, counts: tuple[int, int, int, int]) -> dict[str, Any]:
    """A pull request by itself; `counts` are commits, added lines, deleted lines, and changed files."""
    commits, additions, deletions, changed = counts
    state = {True: "clean", False: "dirty", None: "unknown"}[pull.is_mergeable]
    return pull_request(site, pull) | {
        "merged": pull.is_merged,
        "mergeable": None if pull.state == "closed" else pull.is_mergeable,
        "rebaseable": None,
        "mergeable_state": "unknown" if pull.state == "closed" else state,
        "merged_by": simple_user(site, pull.merged_by) if pull.merged_by else None,
        "comments": len(pull.comments),
        "review_comments": 0,
        "maintainer_can_modify": False,
        "commits": commits,
        "additions": additions,
        "deletions": deletions,
        "changed_files": changed,
    }


def _end(site: Site, where: Repository, branch: str, sha: str) -> dict[str, Any]:
    return {
        "label": f"{where.owner.login}:{branch}",
        "ref": branch,
        "sha": sha,
        "user": simple_user(site, where.owner),
        "repo": repository(site, where),
    }


def association(pull: PullRequest) -> str:
    """What the author is to the repository."""
    role = pull.repository.role_of(pull.author)
    if pull.author is pull.repository.owner:
        return "OWNER"
    return "COLLABORATOR" if role in ("write", "maintain", "admin") else "NONE"


def comment(site: Site, app: App, pull: PullRequest, record: Comment) -> dict[str, Any]:
    """A comment of the conversation."""
    url = f"{site.repository(pull.repository)}/issues/comments/{record.github_id}"
    return {
        "url": url,
        "html_url": f"{site.pull_page(pull)}#issuecomment-{record.github_id}",
        "issue_url": site.issue(pull),
        "id": record.github_id,
        "node_id": node_id("IssueComment", record.github_id),
        "user": simple_user(site, record.author),
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.updated_at),
        "author_association": record.association,
        "body": record.body,
        "reactions": reactions(f"{url}/reactions", record),
        "performed_via_github_app": app_shape(site, app) if record.is_by_app else None,
    }


def reactions(url: str, record: Comment | None) -> dict[str, Any]:
    """How often each reaction was given."""
    given = [content for _, content in record.reactions] if record else []
    return {"url": url, "total_count": len(given), **{name: given.count(name) for name in CONTENTS}}


def review(site: Site, pull: PullRequest, record: Review) -> dict[str, Any]:
    """A review."""
    page = f"{site.pull_page(pull)}#pullrequestreview-{record.github_id}"
    return {
        "id": record.github_id,
        "node_id": node_id("PullRequestReview", record.github_id),
        "user": simple_user(site, record.author),
        "body": record.body,
        "state": record.state,
        "html_url": page,
        "pull_request_url": site.pull(pull),
        "author_association": record.association,
        "_links": {"html": {"href": page}, "pull_request": {"href": site.pull(pull)}},
        "submitted_at": stamp(record.submitted_at),
        "commit_id": record.commit_sha,
    }
