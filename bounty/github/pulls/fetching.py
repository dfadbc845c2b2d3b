"""Fetches the head of a pull request next to the bound branch: a bare repository of its own for each binding.

The copy that the branch is followed in is another one, so that no pull request can make it too large.
"""

from pathlib import Path

from django.conf import settings

from bounty.github.repositories import mirrors
from bounty.github.repositories.addresses import Place
from bounty.github.repositories.following import pulls_mirror_of
from bounty.github.repositories.git import Git, GitError, LimitReached, Limits, Missing
from bounty.models import RepositoryBinding

GONE = ("not our ref", "unadvertised object")


class HeadGone(GitError):
    """The repository no longer has this commit: the pull request has another head by now."""


class HeadTooLarge(GitError):
    """The head cannot be fetched within the limits, not even into an empty copy."""


def fetch_head(
    binding: RepositoryBinding, *, number: int, sha: str, limits: Limits | None = None
) -> tuple[Path, str]:
    """Fetch the branch and this head; the copy's folder, and the branch's commit.

    The head is asked for by its own name, and by its pull request's where the server does not hand out commits. Raises
    HeadGone, HeadTooLarge, Missing, Busy, GitError.
    """
    folder, place = pulls_mirror_of(binding), Place(binding.url, binding.branch, binding.folder)
    try:
        _fetch(folder, place, number, sha, limits)
    except LimitReached:  # the copy was removed: heads of others may have filled it
        try:
            _fetch(folder, place, number, sha, limits)
        except LimitReached as error:
            raise HeadTooLarge(f"This pull request cannot be fetched. {error}") from None
    return folder, mirrors.commit_at(folder, mirrors.HEAD)


def _fetch(folder: Path, place: Place, number: int, sha: str, limits: Limits | None) -> None:
    kept = f"refs/pulls/{number}"
    branch = mirrors.branch_to_head(place)
    by_number = f"refs/pull/{number}/head"
    for wanted in (sha, by_number):
        try:
            mirrors.fetch_refs(
                folder,
                place,
                [branch, f"+{wanted}:{kept}"],
                protocols=tuple(settings.REPOSITORY_PROTOCOLS),
                limits=limits,
            )
        except (LimitReached, mirrors.Busy):
            raise
        except GitError as error:
            is_gone = any(words in str(error) for words in GONE)
            if not is_gone and not (wanted == by_number and isinstance(error, Missing)):
                raise
        if has_commit(folder, sha):
            return
    raise HeadGone(
        "The repository no longer has this commit. The pull request's newest head is sealed instead."
    )


def has_commit(folder: Path, sha: str) -> bool:
    """Whether the copy has this commit."""
    if not (folder / "HEAD").exists():
        return False
    return Git(folder).run("cat-file", "-e", f"{sha}^{{commit}}", allowed=(0, 1, 128))[0] == 0
