"""Where a bound repository is: its address, its branch, and the folder that is the lineage's `model/`. Pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.patch.paths import UnsafePathError, check_path

OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SEGMENT = re.compile(r"[A-Za-z0-9_.~][A-Za-z0-9_.~-]*")
_NOT_IN_A_BRANCH = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|[^\x00-\x7f]|\.\.|@\{|//|/\.|\.lock(/|$)")
MAX_URL_CHARACTERS = 300
MAX_BRANCH_CHARACTERS = 200
DEFAULT_FOLDER = "model"


class BadAddress(ValueError):
    """A repository, branch or folder that cannot be bound. The message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder on a branch of a repository."""

    url: str
    branch: str
    folder: str

    def __str__(self) -> str:
        return f"{self.url}, branch {self.branch}, folder {self.folder}"


def place(*, repository: str, branch: str, folder: str, github_url: str, protocols: Collection[str]) -> Place:
    """Check all three. `repository` is OWNER/NAME at `github_url`, or a URL of one of `protocols`. Raises BadAddress."""
    url = f"{github_url}/{repository}.git" if OWNER_AND_NAME.fullmatch(repository) else repository
    return Place(_checked_url(url, protocols), _checked_branch(branch), _checked_folder(folder))


def _checked_url(url: str, protocols: Collection[str]) -> str:
    how = f"Write OWNER/NAME, or an address such as {min(protocols)}://HOST/OWNER/NAME.git."
    try:
        parts = urlsplit(url)
        is_port_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise BadAddress(f"The repository's address cannot be read. {how}") from None
    if len(url) > MAX_URL_CHARACTERS or not url.isascii() or not url.isprintable():
        raise BadAddress(f"The repository's address is too long, or has characters that none has. {how}")
    if parts.scheme not in protocols:
        raise BadAddress(f"Repositories are fetched by {' or '.join(sorted(protocols))} only. {how}")
    if "@" in parts.netloc:
        raise BadAddress(f"The repository's address must have no user name or password in it. {how}")
    segments = parts.path.removesuffix("/").split("/")[1:]
    is_plain = not any(mark in url for mark in "?#%") and bool(segments) and ".." not in segments
    is_host_fine = _HOST.fullmatch(parts.hostname or "") is not None
    if not (is_plain and is_host_fine and is_port_fine and all(_SEGMENT.fullmatch(s) for s in segments)):
        raise BadAddress(f"The repository's address is not a plain one. {how}")
    return url.removesuffix("/")


def _checked_branch(branch: str) -> str:
    """Git's rules for a branch (git-check-ref-format), ASCII only, and none that could be taken for an option."""
    if not branch or len(branch) > MAX_BRANCH_CHARACTERS:
        raise BadAddress(f"Name a branch, with at most {MAX_BRANCH_CHARACTERS} characters.")
    if (
        _NOT_IN_A_BRANCH.search(branch)
        or branch.startswith(("-", "/", "."))
        or branch.endswith(("/", "."))
        or branch in ("@", "HEAD")
    ):
        raise BadAddress("This is not the name of a branch. Write it as `git branch` shows it, such as main.")
    return branch


def _checked_folder(folder: str) -> str:
    try:
        return check_path(folder.removesuffix("/"))
    except UnsafePathError as error:
        raise BadAddress(f"This folder cannot be bound. {error.message}") from None
