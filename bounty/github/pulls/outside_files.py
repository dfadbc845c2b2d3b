"""What a pull request changes outside of the bound folder, and whether its commits are signed off."""

import re
from pathlib import Path

from bounty.github.repositories.git import Git, GitError, LimitReached, Limits

FINE_FOLDERS = ("tests/", "docs/", "examples/")
FINE_ENDING = ".md"
FILE_MODES = (b"100644", b"100755")
NO_MODE = b"000000"  # of a file that is not there before or after
MAX_LISTING_BYTES = 16 * 1024 * 1024
MAX_UNMEASURED = 200
MAX_COMMITS = 250  # of one pull request, as many as GitHub lists
NAMED = re.compile(r"Signed-off-by:[ \t]+\S.*<(?P<address>[^<>\s]+)>[ \t]*", re.IGNORECASE)


class TooMuchOutside(GitError):
    """More is changed outside of the folder than a person could accept by name."""


def unmeasured_paths(copy: Path, *, base: str, head: str, folder: str) -> list[str]:
    """The changed files outside of `folder` that are not tests, docs, examples or Markdown, sorted.

    Symbolic links and submodules are never among those that are fine. Raises TooMuchOutside, GitError.
    """
    found = sorted(
        path
        for path, is_file in _changed(copy, base, head)
        if not path.startswith(f"{folder}/") and not (is_file and is_fine(path))
    )
    if len(found) > MAX_UNMEASURED:
        raise TooMuchOutside(
            f"It changes {len(found)} files outside of {folder}/ that are not tests, docs, examples or Markdown; at most "
            f"{MAX_UNMEASURED} are taken. Split the pull request."
        )
    return found


def is_fine(path: str) -> bool:
    """Whether a change of this file needs no measurement."""
    is_plain = not any(part in ("", ".", "..") for part in path.split("/"))
    return is_plain and (path.startswith(FINE_FOLDERS) or path.endswith(FINE_ENDING))


def is_signed_off(copy: Path, *, base: str, head: str) -> bool:
    """Whether each commit, merges left out, has a line `Signed-off-by` with its author's address (DCO).

    False where there are more than MAX_COMMITS.
    """
    listed = Git(copy).run(
        "log", "-z", "--no-merges", f"--max-count={MAX_COMMITS + 1}", "--format=%ae%n%B", "--no-color",
        "--end-of-options", f"{base}..{head}",
    )[1]  # fmt: skip
    commits = [part for part in listed.decode("utf-8", "replace").split("\0") if part]
    return 0 < len(commits) <= MAX_COMMITS and all(map(_is_signed, commits))


def _is_signed(commit: str) -> bool:
    author, *lines = commit.splitlines()
    signed = [found["address"] for line in lines if (found := NAMED.fullmatch(line))]
    return author.lower() in [address.lower() for address in signed]


def _changed(copy: Path, base: str, head: str) -> list[tuple[str, bool]]:
    """The changed paths, and whether each is a plain file before and after. Paths that no text could show are escaped."""
    git = Git(copy, limits=Limits(file_bytes=MAX_LISTING_BYTES))
    try:
        answer = git.run(
            "diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-ext-diff", "--end-of-options", base, head
        )[1]
    except LimitReached:
        raise TooMuchOutside(
            "It changes far more files than a pull request may change here. Split it."
        ) from None
    parts = answer.split(b"\0")[:-1]
    found = []
    for facts, name in zip(parts[::2], parts[1::2], strict=True):
        modes = facts.lstrip(b":").split(b" ")[:2]
        is_file = all(mode in (*FILE_MODES, NO_MODE) for mode in modes)
        path = name.decode("utf-8", "backslashreplace")
        found.append((path if path.isprintable() else ascii(path)[1:-1], is_file))
    return found
