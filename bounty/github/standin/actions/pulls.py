"""Pull requests are opened, pushed to, edited, reviewed, closed and opened again."""

from __future__ import annotations

from bounty.github.standin import events, git
from bounty.github.standin.actions.test_merges import drop_test_merge, publish_head, refresh_test_merge
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, PullRequest, Repository, Review


def open_pull_request(
    hub: Hub,
    repository: Repository,
    *,
    source: Repository,
    branch: str,
    base: str,
    author: Account,
    title: str,
    body: str,
    is_draft: bool,
) -> PullRequest:
    """Open a pull request for a branch that was pushed already."""
    now, state = hub.state.now(), hub.state
    pull = PullRequest(
        state.number("pull"), state.issue_number(repository), repository, source, branch, base, author, title, body,
        git.ref(source.folder, f"refs/heads/{branch}"), git.ref(repository.folder, f"refs/heads/{base}"), now, now,
        is_draft=is_draft,
    )  # fmt: skip
    repository.pulls[pull.number] = pull
    publish_head(pull)
    refresh_test_merge(hub, pull)
    events.pull_request(hub, "opened", pull, author)
    return pull


def branch_moved(
    hub: Hub, repository: Repository, branch: str, before: str, after: str, sender: Account
) -> None:
    """A branch was pushed to: sends `push`, moves the open pull requests from it, and closes those it now contains."""
    events.push(hub, repository, f"refs/heads/{branch}", before, after, sender)
    for pull in _pulls_from(hub, repository, branch):
        if after:
            _synchronize(hub, pull, after, sender)
        else:
            close(hub, pull, sender)
    if after:
        for pull in [row for row in repository.pulls.values() if row.state == "open" and row.base == branch]:
            if pull.head_sha != before and git.is_ancestor(repository.folder, pull.head_sha, after):
                mark_merged(hub, pull, after, sender)


def _pulls_from(hub: Hub, repository: Repository, branch: str) -> list[PullRequest]:
    every = (pull for row in hub.state.repositories.values() for pull in row.pulls.values())
    return [p for p in every if p.state == "open" and p.source is repository and p.branch == branch]


def _synchronize(hub: Hub, pull: PullRequest, head: str, sender: Account) -> None:
    before, pull.head_sha = pull.head_sha, head
    pull.base_sha = git.ref(pull.repository.folder, f"refs/heads/{pull.base}")
    pull.updated_at = hub.state.now()
    publish_head(pull)
    refresh_test_merge(hub, pull)
    events.pull_request(hub, "synchronize", pull, sender, before=before, after=head)


def edit(
    hub: Hub, pull: PullRequest, sender: Account, *, title: str | None, body: str | None, base: str | None
) -> None:
    """Change a pull request's title, text or branch."""
    changes: dict[str, object] = {}
    if title is not None:
        changes["title"], pull.title = {"from": pull.title}, title
    if body is not None:
        changes["body"], pull.body = {"from": pull.body}, body
    if base is not None:
        changes["base"] = {"ref": {"from": pull.base}, "sha": {"from": pull.base_sha}}
        pull.base, pull.base_sha = base, git.ref(pull.repository.folder, f"refs/heads/{base}")
        refresh_test_merge(hub, pull)
    pull.updated_at = hub.state.now()
    events.pull_request(hub, "edited", pull, sender, changes=changes)


def set_draft(hub: Hub, pull: PullRequest, sender: Account, *, is_draft: bool) -> None:
    """Make a pull request a draft, or ready for review."""
    pull.is_draft = is_draft
    pull.updated_at = hub.state.now()
    events.pull_request(hub, "converted_to_draft" if is_draft else "ready_for_review", pull, sender)


def close(hub: Hub, pull: PullRequest, sender: Account) -> None:
    """Close a pull request without merging it."""
    pull.state = "closed"
    pull.closed_at = pull.updated_at = hub.state.now()
    drop_test_merge(pull)
    events.pull_request(hub, "closed", pull, sender)


def reopen(hub: Hub, pull: PullRequest, sender: Account) -> None:
    """Open a closed pull request again."""
    pull.state, pull.closed_at, pull.updated_at = "open", None, hub.state.now()
    publish_head(pull)
    refresh_test_merge(hub, pull)
    events.pull_request(hub, "reopened", pull, sender)


def mark_merged(hub: Hub, pull: PullRequest, commit: str, sender: Account) -> None:
    """Record that a pull request is merged by a commit of its branch."""
    now = hub.state.now()
    pull.state, pull.merge_sha, pull.merged_by = "closed", commit, sender
    pull.merged_at = pull.closed_at = pull.updated_at = now
    drop_test_merge(pull)
    events.pull_request(hub, "closed", pull, sender)


def add_review(
    hub: Hub, pull: PullRequest, author: Account, *, state: str, commit_sha: str, body: str
) -> Review:
    """Submit a review of a commit; `state` is APPROVED, CHANGES_REQUESTED or COMMENTED."""
    now = hub.state.now()
    made = Review(hub.state.number("review"), author, commit_sha, state, body, now)
    pull.reviews.append(made)
    pull.updated_at = now
    events.review(hub, "submitted", pull, made, author)
    return made


def dismiss_review(hub: Hub, pull: PullRequest, review: Review, sender: Account) -> None:
    """Dismiss a review."""
    review.state = "DISMISSED"
    pull.updated_at = hub.state.now()
    events.review(hub, "dismissed", pull, review, sender)
