"""Comments are written, edited and deleted."""

from __future__ import annotations

from bounty.github.standin import events
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, Comment, PullRequest


def add_comment(
    hub: Hub, pull: PullRequest, author: Account, body: str, *, is_by_app: bool = False
) -> Comment:
    """Write a comment; sends `issue_comment` created, for the App's own as well."""
    now = hub.state.now()
    role = pull.repository.role_of(author)
    association = "OWNER" if author is pull.repository.owner else "COLLABORATOR" if role != "read" else "NONE"
    made = Comment(
        hub.state.number("comment"), pull.number, author, body, now, now,
        is_by_app=is_by_app, association="NONE" if is_by_app else association,
    )  # fmt: skip
    pull.comments.append(made)
    pull.updated_at = now
    events.issue_comment(hub, "created", pull, made, author)
    return made


def edit_comment(hub: Hub, pull: PullRequest, comment: Comment, body: str, *, by: Account) -> None:
    """Edit a comment: people with write permission may edit anyone's."""
    before = comment.body
    comment.body = body
    comment.updated_at = pull.updated_at = hub.state.now()
    events.issue_comment(hub, "edited", pull, comment, by, changes={"body": {"from": before}})


def delete_comment(hub: Hub, pull: PullRequest, comment: Comment, *, by: Account) -> None:
    """Delete a comment."""
    pull.comments.remove(comment)
    pull.updated_at = hub.state.now()
    events.issue_comment(hub, "deleted", pull, comment, by)
