"""The commits that GitHub makes to merge a pull request: merge, squash, rebase, and the merge queue's."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from bounty.github.standin import git

METHODS = ("merge", "squash", "rebase")


class Conflict(RuntimeError):
    """The pull request does not merge cleanly."""


def test_merge(folder: Path, tip: str, head: str, at: datetime) -> str | None:
    """The commit of `refs/pull/N/merge`: the branch's tip merged with the head; None if they conflict."""
    tree = git.merged_tree(folder, tip, head)
    if tree is None:
        return None
    text = f"Merge {head} into {tip}"
    return git.commit_tree(folder, tree, [tip, head], text, author="GitHub <noreply@github.com>", at=at)


def merge(
    folder: Path, method: str, *, tip: str, head: str, title: str, number: int, author: str, at: datetime
) -> str:
    """The commit that the branch gets. Raises Conflict."""
    if method == "rebase":
        return _rebased(folder, tip, head, at)
    tree = git.merged_tree(folder, tip, head)
    if tree is None:
        raise Conflict(f"#{number} conflicts with its branch")
    if method == "squash":
        return git.commit_tree(folder, tree, [tip], f"{title} (#{number})\n", author=author, at=at)
    text = f"Merge pull request #{number}\n\n{title}\n"
    return git.commit_tree(folder, tree, [tip, head], text, author=author, at=at)


def _rebased(folder: Path, tip: str, head: str, at: datetime) -> str:
    """The commits of the head, each made again on top of the branch with its own author and date."""
    above = tip
    for commit in git.commits_between(folder, tip, head):
        tree = git.merged_tree(folder, above, commit, base=f"{commit}^")
        if tree is None:
            raise Conflict(f"{commit} conflicts with the branch")
        author, _, date = git.git(folder, "show", "-s", "--format=%an <%ae>%x00%aI", commit).partition("\0")
        text = git.message_of(folder, commit)
        above = git.commit_tree(folder, tree, [above], text, author=author, at=at, author_date=date)
    return above


def reverted(folder: Path, commit: str, tip: str, *, author: str, at: datetime) -> str:
    """A commit that takes back what `commit` brought over its first parent. Raises Conflict."""
    tree = git.merged_tree(folder, tip, f"{commit}^1", base=commit)
    if tree is None:
        raise Conflict(f"{commit} cannot be reverted cleanly")
    subject = git.message_of(folder, commit).splitlines()[0]
    text = f'Revert "{subject}"\n\nThis reverts commit {commit}.\n'
    return git.commit_tree(folder, tree, [tip], text, author=author, at=at)
