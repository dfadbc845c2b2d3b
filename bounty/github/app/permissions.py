"""What the App needs, and in words what it lacks. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

LEVELS = ("none", "read", "write", "admin")
NEEDED = {
    "metadata": "read",
    "contents": "read",
    "pull_requests": "write",
    "checks": "write",
    "issues": "write",
}
WISHED = {"merge_queues": "read"}
"""Only with it GitHub sends the events of merge queues; everything else works without it."""
EVENTS = ("issue_comment", "pull_request", "pull_request_review", "push", "repository")
WISHED_EVENTS = ("merge_group",)
REASONS = {
    "metadata": "see the repository and what its collaborators may do",
    "contents": "hear of pushes",
    "pull_requests": "read pull requests and their reviews",
    "checks": "show its verdict as a check run",
    "issues": "comment, and react to commands",
}


def missing_permissions(granted: Mapping[str, str]) -> dict[str, str]:
    """Needed permissions that are not granted, or at too low a level -> the level needed."""
    return {name: level for name, level in NEEDED.items() if _rank(granted.get(name, "none")) < _rank(level)}


def missing_events(subscribed: Collection[str]) -> list[str]:
    """Events that the App needs and does not subscribe to."""
    return [name for name in EVENTS if name not in subscribed]


def problem_of_app(
    granted: Mapping[str, str], subscribed: Collection[str], *, page: str, has_webhook: bool
) -> str:
    """What the App itself lacks and where to change that; empty if nothing."""
    parts = [_permission(name, level, granted) for name, level in missing_permissions(granted).items()]
    if has_webhook:
        parts += [f"It does not subscribe to the event {name}." for name in missing_events(subscribed)]
    if not parts:
        return ""
    return f"{' '.join(parts)} Change that on the App's page ({page}), under Permissions & events."


def problem_of_installation(granted: Mapping[str, str], *, account: str, page: str) -> str:
    """What an installation lacks and who can change that; empty if nothing."""
    parts = [_permission(name, level, granted) for name, level in missing_permissions(granted).items()]
    if not parts:
        return ""
    return f"{' '.join(parts)} An owner of {account} has to accept the App's new permissions at {page}."


def _permission(name: str, level: str, granted: Mapping[str, str]) -> str:
    has = granted.get(name, "none")
    return f"It needs {level} for {name} (it has {has}), to {REASONS[name]}."


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 0
