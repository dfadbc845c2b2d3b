"""Bare git repositories, written to by plumbing: nothing is ever checked out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

ENVIRONMENT = {
    "PATH": os.defpath,
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
SETTINGS = {
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "http.receivepack": "true",
    "gc.auto": "0",
    "receive.autogc": "false",
    "core.logAllRefUpdates": "false",
}
TIMEOUT_S = 120


@dataclass(frozen=True)
class File:
    """A file of a commit. ``data`` is a link's target for mode 120000, a commit's name for mode 160000."""

    data: bytes
    mode: str = "100644"


Content = str | bytes | File | None
"""What a commit does with a path: text, bytes, a file with a mode, or None to delete it."""


class GitError(RuntimeError):
    """Git refused."""


GIT = shutil.which("git") or "git"


def git(folder: Path, *arguments: str, given: bytes = b"", env: Mapping[str, str] | None = None) -> str:
    """Run git on a bare repository; what it printed, stripped. Raises GitError."""
    done = subprocess.run(
        [GIT, f"--git-dir={folder}", *arguments],
        input=given, capture_output=True, env={**ENVIRONMENT, **(env or {})}, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise GitError(done.stderr.decode(errors="replace").strip())
    return done.stdout.decode(errors="surrogateescape").strip()


def init(folder: Path, branch: str = "main") -> None:
    """Make an empty bare repository that serves partial clones and single commits, as GitHub does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "--bare", "-b", branch)
    configure(folder)


def configure(folder: Path) -> None:
    """Set what a served repository needs."""
    for name, value in SETTINGS.items():
        git(folder, "config", name, value)


def fork(source: Path, folder: Path) -> None:
    """Make a bare copy with the branches of `source`, whose objects are linked."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(folder, "clone", "-q", "--bare", str(source), str(folder))
    configure(folder)


def ref(folder: Path, name: str) -> str:
    """The commit that a ref names; empty if there is none."""
    return git(folder, "for-each-ref", "--format=%(objectname)", name)


def refs(folder: Path, below: str = "refs/heads") -> dict[str, str]:
    """Refs below a prefix and their commits."""
    rows = git(folder, "for-each-ref", "--format=%(objectname) %(refname)", below).splitlines()
    return {name: sha for sha, _, name in (row.partition(" ") for row in rows)}


def set_ref(folder: Path, name: str, sha: str) -> None:
    git(folder, "update-ref", name, sha)


def drop_ref(folder: Path, name: str) -> None:
    git(folder, "update-ref", "-d", name)


def has_commit(folder: Path, sha: str) -> bool:
    """Whether the repository has a commit of that full name."""
    try:
        return git(folder, "cat-file", "-t", sha) == "commit"
    except GitError:
        return False


def is_ancestor(folder: Path, old: str, new: str) -> bool:
    try:
        git(folder, "merge-base", "--is-ancestor", old, new)
    except GitError:
        return False
    return True


def merge_base(folder: Path, one: str, other: str) -> str:
    """The best common ancestor; empty if there is none."""
    try:
        return git(folder, "merge-base", one, other)
    except GitError:
        return ""


def tree_of(folder: Path, commit: str) -> str:
    return git(folder, "rev-parse", f"{commit}^{{tree}}")


def commits_between(folder: Path, base: str, head: str) -> list[str]:
    """Commits of `head` that are not in `base`, oldest first, merges left out."""
    return git(folder, "rev-list", "--reverse", "--topo-order", "--no-merges", f"{base}..{head}").splitlines()


def message_of(folder: Path, commit: str) -> str:
    return git(folder, "show", "-s", "--format=%B", commit)


def commit_files(
    folder: Path,
    *,
    branch: str,
    files: Mapping[str, Content],
    message: str,
    author: str,
    at: datetime,
    parent: str,
) -> str:
    """Commit changes on top of `parent` (empty: a new root) and point the branch there; the commit.

    One process writes any number of files.
    """
    stamp = f"{int(at.timestamp())} +0000"
    text = message.encode()
    name = f"refs/heads/{branch}"
    parts = [
        f"commit {name}\nmark :1\nauthor {author} {stamp}\ncommitter {author} {stamp}\n".encode(),
        b"data %d\n%s\n" % (len(text), text),
        f"from {parent}\n".encode() if parent else b"",
    ]
    parts += [_change(path, content) for path, content in files.items()]
    if not parent:
        parts.insert(0, f"reset {name}\n\n".encode())
    git(folder, "fast-import", "--quiet", "--force", given=b"".join([*parts, b"done\n"]))
    return ref(folder, name)


def _change(path: str, content: Content) -> bytes:
    quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    where = quoted.encode(errors="surrogateescape")
    if content is None:
        return b"D %s\n" % where
    file = (
        content
        if isinstance(content, File)
        else File(content.encode() if isinstance(content, str) else content)
    )
    if file.mode == "160000":
        return b"M 160000 %s %s\n" % (file.data, where)
    return b"M %s inline %s\ndata %d\n%s\n" % (file.mode.encode(), where, len(file.data), file.data)


def merged_tree(folder: Path, ours: str, theirs: str, base: str = "") -> str | None:
    """The tree of a merge of two commits; None if they conflict."""
    given = [f"--merge-base={base}"] if base else []
    try:
        return git(folder, "merge-tree", "--write-tree", *given, ours, theirs).splitlines()[0]
    except GitError:
        return None


def commit_tree(
    folder: Path,
    tree: str,
    parents: list[str],
    message: str,
    *,
    author: str,
    at: datetime,
    author_date: str = "",
) -> str:
    """A commit of a tree that GitHub makes for somebody."""
    name, _, email = author.rpartition(" <")
    stamp = f"{int(at.timestamp())} +0000"
    above = [word for parent in parents for word in ("-p", parent)]
    env = {
        "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email.rstrip(">"), "GIT_AUTHOR_DATE": author_date or stamp,
        "GIT_COMMITTER_NAME": "GitHub", "GIT_COMMITTER_EMAIL": "noreply@github.com", "GIT_COMMITTER_DATE": stamp,
    }  # fmt: skip
    return git(folder, "commit-tree", tree, *above, "-F", "-", given=message.encode(), env=env)
