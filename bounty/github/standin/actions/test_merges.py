"""`refs/pull/N/head` and `refs/pull/N/merge`, as GitHub keeps them."""

from __future__ import annotations

from bounty.github.standin import git
from bounty.github.standin.hub import Hub
from bounty.github.standin.merging import test_merge
from bounty.github.standin.records import PullRequest


def publish_head(pull: PullRequest) -> None:
    """Bring the source's commits into the repository and point `refs/pull/N/head` at the head."""
    folder = pull.repository.folder
    if pull.source is not pull.repository:
        source = f"+refs/heads/{pull.branch}:refs/pull/{pull.number}/head"
        git.git(folder, "fetch", "-q", "--no-tags", str(pull.source.folder), source)
    git.set_ref(folder, f"refs/pull/{pull.number}/head", pull.head_sha)


def refresh_test_merge(hub: Hub, pull: PullRequest) -> None:
    """Merge the head with the branch's tip for `refs/pull/N/merge`; without the ref if they conflict.

    GitHub does this some time after a push. Here it is done when the pull request is opened, pushed to or asked for.
    """
    folder, name = pull.repository.folder, f"refs/pull/{pull.number}/merge"
    tip = git.ref(folder, f"refs/heads/{pull.base}")
    made = git.ref(folder, name)
    if made and git.git(folder, "show", "-s", "--format=%P", made).split() == [tip, pull.head_sha]:
        return
    merged = test_merge(folder, tip, pull.head_sha, hub.state.now()) if tip else None
    pull.is_mergeable = merged is not None
    pull.merge_sha = merged
    if merged is not None:
        git.set_ref(folder, name, merged)
    elif made:
        git.drop_ref(folder, name)


def drop_test_merge(pull: PullRequest) -> None:
    """Remove `refs/pull/N/merge`, as happens when a pull request is closed. Its head's ref stays."""
    name = f"refs/pull/{pull.number}/merge"
    if git.ref(pull.repository.folder, name):
        git.drop_ref(pull.repository.folder, name)
