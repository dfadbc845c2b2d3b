"""Payloads of webhook events, in GitHub's form."""

from __future__ import annotations

from typing import Any

from bounty.github.standin import git
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import (
    Account,
    CheckRun,
    Comment,
    Installation,
    PullRequest,
    Repository,
    Review,
)
from bounty.github.standin.shapes import accounts, pulls, repositories
from bounty.github.standin.shapes.checks import check_run as check_shape
from bounty.github.standin.shapes.links import node_id, stamp

NO_COMMIT = "0" * 40
NEEDS = {
    "check_run": "checks", "issue_comment": "issues", "merge_group": "merge_queues", "pull_request": "pull_requests",
    "pull_request_review": "pull_requests", "push": "contents", "repository": "metadata",
}  # fmt: skip
"""Event -> permission without which it is not sent."""


def emit(
    hub: Hub,
    event: str,
    repository: Repository,
    sender: Account,
    fields: dict[str, Any],
    *,
    action: str = "",
) -> None:
    """Send an event of a repository to the App, if it is installed there, not suspended, and subscribed."""
    app = hub.state.app
    installation = hub.state.installation_of(repository)
    if app is None or installation is None or installation.suspended_at is not None:
        return
    if event not in app.events or NEEDS[event] not in installation.permissions:
        return
    payload = {
        **({"action": action} if action else {}),
        **fields,
        "repository": repositories.repository(hub.site, repository),
        "sender": accounts.simple_user(hub.site, sender),
        "installation": _installation_lite(installation),
    }
    hub.deliveries.emit(event, action, payload, installation.github_id, repository.github_id)


def pull_request(hub: Hub, action: str, pull: PullRequest, sender: Account, **more: Any) -> None:
    """`pull_request`: opened, synchronize, edited, closed, reopened, converted_to_draft, ready_for_review."""
    shown = pulls.full_pull_request(hub.site, pull, (0, 0, 0, 0))
    emit(
        hub, "pull_request", pull.repository, sender,
        {"number": pull.number, "pull_request": shown, **more}, action=action,
    )  # fmt: skip


def issue_comment(
    hub: Hub, action: str, pull: PullRequest, comment: Comment, sender: Account, **more: Any
) -> None:
    """`issue_comment`: created, edited, deleted. The issue is the pull request as an issue."""
    fields = {"issue": issue(hub, pull), "comment": pulls.comment(hub.site, hub.app, pull, comment), **more}
    emit(hub, "issue_comment", pull.repository, sender, fields, action=action)


def review(hub: Hub, action: str, pull: PullRequest, record: Review, sender: Account) -> None:
    """`pull_request_review`: submitted, dismissed. Its state is in small letters, unlike in the REST API."""
    shown = pulls.review(hub.site, pull, record)
    fields = {
        "review": shown | {"state": record.state.lower(), "updated_at": shown["submitted_at"]},
        "pull_request": pulls.pull_request(hub.site, pull),
    }
    emit(hub, "pull_request_review", pull.repository, sender, fields, action=action)


def push(hub: Hub, repository: Repository, ref: str, before: str, after: str, sender: Account) -> None:
    """`push`: a branch moved, was made (before is zeros) or deleted (after is zeros)."""
    before, after = before or NO_COMMIT, after or NO_COMMIT
    is_made, is_deleted = before == NO_COMMIT, after == NO_COMMIT
    folder = repository.folder
    is_forced = not is_made and not is_deleted and not git.is_ancestor(folder, before, after)
    head = None if is_deleted else _commit(hub, repository, after)
    fields = {
        "ref": ref,
        "before": before,
        "after": after,
        "created": is_made,
        "deleted": is_deleted,
        "forced": is_forced,
        "base_ref": None,
        "compare": f"{hub.site.web}/{repository.full_name}/compare/{before[:12]}...{after[:12]}",
        "commits": [head] if head else [],
        "head_commit": head,
        "pusher": {"name": sender.login, "email": sender.email or None},
    }
    emit(hub, "push", repository, sender, fields)


def merge_group(
    hub: Hub, action: str, pull: PullRequest, head_sha: str, base_sha: str, sender: Account
) -> None:
    """`merge_group`: checks_requested when the queue has made its commit; destroyed when it is merged or dropped."""
    branch = f"refs/heads/gh-readonly-queue/{pull.base}/pr-{pull.number}-{base_sha}"
    group = {
        "head_sha": head_sha,
        "head_ref": branch,
        "base_sha": base_sha,
        "base_ref": f"refs/heads/{pull.base}",
        "head_commit": _simple_commit(pull.repository, head_sha),
    }
    emit(hub, "merge_group", pull.repository, sender, {"merge_group": group}, action=action)


def check_run(hub: Hub, action: str, repository: Repository, run: CheckRun) -> None:
    """`check_run`: created, completed. Only an App that subscribes to them gets these."""
    fields = {"check_run": check_shape(hub.site, hub.app, repository, run)}
    emit(hub, "check_run", repository, hub.app.bot, fields, action=action)


def renamed(hub: Hub, repository: Repository, old_name: str, sender: Account) -> None:
    """`repository` renamed."""
    fields = {"changes": {"repository": {"name": {"from": old_name}}}}
    emit(hub, "repository", repository, sender, fields, action="renamed")


def installation(hub: Hub, action: str, record: Installation, sender: Account) -> None:
    """`installation`: created, deleted, suspend, unsuspend, new_permissions_accepted. Every App gets these."""
    payload = {
        "action": action,
        "installation": accounts.installation(hub.site, hub.app, record),
        "repositories": [_repository_lite(row) for row in record.repositories],
        "requester": None,
        "sender": accounts.simple_user(hub.site, sender),
    }
    hub.deliveries.emit("installation", action, payload, record.github_id, None)


def installation_repositories(
    hub: Hub, record: Installation, sender: Account, *, added: list[Repository], removed: list[Repository]
) -> None:
    """`installation_repositories`: added or removed. Every App gets these."""
    action = "added" if added else "removed"
    payload = {
        "action": action,
        "installation": accounts.installation(hub.site, hub.app, record),
        "repository_selection": "selected",
        "repositories_added": [_repository_lite(row) for row in added],
        "repositories_removed": [_repository_lite(row) for row in removed],
        "requester": None,
        "sender": accounts.simple_user(hub.site, sender),
    }
    hub.deliveries.emit("installation_repositories", action, payload, record.github_id, None)


def issue(hub: Hub, pull: PullRequest) -> dict[str, Any]:
    """A pull request as the issue that it also is."""
    site, url, page = hub.site, hub.site.issue(pull), hub.site.pull_page(pull)
    return {
        "url": url,
        "repository_url": site.repository(pull.repository),
        "labels_url": f"{url}/labels{{/name}}",
        "comments_url": f"{url}/comments",
        "events_url": f"{url}/events",
        "html_url": page,
        "id": pull.github_id + 1,
        "node_id": node_id("Issue", pull.github_id + 1),
        "number": pull.number,
        "title": pull.title,
        "user": accounts.simple_user(site, pull.author),
        "labels": [],
        "state": pull.state,
        "locked": False,
        "assignee": None,
        "assignees": [],
        "milestone": None,
        "comments": len(pull.comments),
        "created_at": stamp(pull.created_at),
        "updated_at": stamp(pull.updated_at),
        "closed_at": stamp(pull.closed_at),
        "author_association": pulls.association(pull),
        "active_lock_reason": None,
        "draft": pull.is_draft,
        "pull_request": {
            "url": site.pull(pull),
            "html_url": page,
            "diff_url": f"{page}.diff",
            "patch_url": f"{page}.patch",
            "merged_at": stamp(pull.merged_at),
        },
        "body": pull.body or None,
        "reactions": pulls.reactions(f"{url}/reactions", None),
        "timeline_url": f"{url}/timeline",
        "performed_via_github_app": None,
        "state_reason": None,
    }


def _installation_lite(record: Installation) -> dict[str, Any]:
    return {"id": record.github_id, "node_id": node_id("IntegrationInstallation", record.github_id)}


def _repository_lite(record: Repository) -> dict[str, Any]:
    return {
        "id": record.github_id,
        "node_id": node_id("Repository", record.github_id),
        "name": record.name,
        "full_name": record.full_name,
        "private": record.is_private,
    }


def _commit(hub: Hub, repository: Repository, sha: str) -> dict[str, Any]:
    person = {"name": "", "email": ""}
    simple = _simple_commit(repository, sha)
    return {
        **simple,
        "distinct": True,
        "url": f"{hub.site.web}/{repository.full_name}/commit/{sha}",
        "author": person | simple["author"],
        "committer": person | simple["committer"],
        "added": [],
        "removed": [],
        "modified": [],
    }


def _simple_commit(repository: Repository, sha: str) -> dict[str, Any]:
    form = "%T%x00%aI%x00%an%x00%ae%x00%cn%x00%ce%x00%B"
    tree, at, name, email, by, by_email, text = git.git(
        repository.folder, "show", "-s", f"--format={form}", sha
    ).split("\0")
    return {
        "id": sha,
        "tree_id": tree,
        "message": text,
        "timestamp": at,
        "author": {"name": name, "email": email},
        "committer": {"name": by, "email": by_email},
    }
