"""Bare copies of bound repositories: one folder each, fetched without blobs above a limit."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults import fault_point
from bounty.github.repositories.addresses import Place
from bounty.github.repositories.git import Git, GitError, LimitReached, Limits, Missing

HEAD = "refs/bound/head"
MAX_BLOB_BYTES = 1024 * 1024
NO_BRANCH = "couldn't find remote ref"
UNREADABLE = ("could not read Username", "not found", "403", "401", "404")
MOVED = ("redirect", "301", "302", "307", "308")


class Busy(GitError):
    """Another process is fetching this repository now."""


def fetch(folder: Path, place: Place, *, protocols: tuple[str, ...], limits: Limits | None = None) -> str:
    """Fetch the branch into the bare repository `folder` and return its commit.

    What a killed process left there is no obstacle: git writes objects before the reference. A repository that grew over
    its limit is removed, since nothing of it is needed. Raises Missing, LimitReached, Busy, GitError.
    """
    fetch_refs(folder, place, [branch_to_head(place)], protocols=protocols, limits=limits)
    return commit_at(folder, HEAD)


def fetch_refs(
    folder: Path,
    place: Place,
    refspecs: Sequence[str],
    *,
    protocols: tuple[str, ...],
    limits: Limits | None = None,
) -> None:
    """Fetch these references of the repository, as `fetch` does it. Raises Missing, LimitReached, Busy, GitError."""
    git = Git(folder, protocols, limits or Limits())
    with _locked(folder):
        if not (folder / "HEAD").exists():
            _create(git)
        fault_point("repository.created")
        try:
            git.run(
                "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
                "--no-auto-maintenance", "--refmap=", "--filter=blob:limit=1m",
                "--", place.url, *refspecs,
            )  # fmt: skip
        except LimitReached:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except GitError as error:
            raise _explained(error, place) from None
        fault_point("repository.fetched")


def branch_to_head(place: Place) -> str:
    """The refspec that fetches the place's branch as `HEAD`."""
    return f"+refs/heads/{place.branch}:{HEAD}"


def commit_at(folder: Path, reference: str) -> str:
    """The commit that a reference of the copy names. Raises GitError."""
    name = f"{reference}^{{commit}}"
    return Git(folder).run("rev-parse", "--verify", "--end-of-options", name)[1].decode().strip()


def descends(folder: Path, *, old: str, new: str) -> bool:
    """Whether the commit `new` is `old` or follows it. False where `old` is no longer there."""
    git = Git(folder)
    if git.run("cat-file", "-e", f"{old}^{{commit}}", allowed=(0, 1, 128))[0] != 0:
        return False
    return git.run("merge-base", "--is-ancestor", old, new, allowed=(0, 1))[0] == 0


def remove(folder: Path) -> None:
    """Remove the copy of a repository that is no longer bound."""
    shutil.rmtree(folder, ignore_errors=True)


def _create(git: Git) -> None:
    """An empty bare repository, complete or not there. No template: it could bring hooks."""
    unfinished = git.folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(git.folder, ignore_errors=True)
    unfinished.mkdir()
    Git(unfinished, limits=git.limits).run("init", "--quiet", "--bare", "--template=")
    unfinished.rename(git.folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One fetch at a time. The kernel gives the lock back when this process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Busy("The repository is being fetched already. Wait for that to end.") from None
    finally:
        os.close(handle)


def _explained(error: GitError, place: Place) -> GitError:
    said = str(error)
    if NO_BRANCH in said:
        return Missing(f"The repository has no branch {place.branch}. Bind the lineage to another one.")
    if any(word in said for word in MOVED):
        return Missing(f"The repository answers from another address. Bind the lineage to that one. {said}")
    if any(word in said for word in UNREADABLE):
        return Missing(f"The repository cannot be read without a password, or is not there. {said}")
    return GitError(f"The repository could not be fetched. {said}")
