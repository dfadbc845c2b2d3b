"""Rules for names of files in a tree or a patch. Pure.

Only portable ASCII names pass: no other spelling of the same file can then exist on any file system, in any
Unicode form, in any letter case.
"""

import re

MAX_PATH_CHARACTERS = 240
MAX_SEGMENT_CHARACTERS = 100
_SEGMENT = re.compile(r"[A-Za-z0-9_.+-]+")
_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN_NAMES = frozenset({".git", "__pycache__"})  # git's own folder; a cache that trees never hold


class Refusal(ValueError):
    """Input that is refused. `code` names the rule that it breaks, `message` says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UnsafePathError(Refusal):
    """A path that no tree may hold. `code` is `path_escape` (leaves the tree) or `unsafe_path` (ambiguous)."""


def check_path(path: str) -> str:
    """Return `path` unchanged if it is a safe relative POSIX path; raise UnsafePathError otherwise."""
    shown = ascii(path[:80])
    if not path:
        raise UnsafePathError("unsafe_path", "A file's path is empty.")
    if "\0" in path:
        raise UnsafePathError("path_escape", f"The path {shown} holds a NUL byte.")
    if "\\" in path or path.startswith("/") or _DRIVE.match(path):
        raise UnsafePathError(
            "path_escape", f"The path {shown} is absolute or uses backslashes: write it relative, with '/'."
        )
    segments = path.split("/")
    if ".." in segments:
        raise UnsafePathError(
            "path_escape", f"The path {shown} leaves the tree through '..': write it without."
        )
    if len(path) > MAX_PATH_CHARACTERS or max(map(len, segments)) > MAX_SEGMENT_CHARACTERS:
        raise UnsafePathError(
            "unsafe_path",
            f"The path {shown} is too long: at most {MAX_PATH_CHARACTERS} characters in all and "
            f"{MAX_SEGMENT_CHARACTERS} between two slashes.",
        )
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment.startswith("-") or segment.endswith("."):
            raise UnsafePathError(
                "unsafe_path",
                f"The path {shown} has the part {segment!a}: use only letters, digits and _ . + - (ASCII), "
                "not beginning with '-' and not ending with '.'.",
            )
        if segment.lower() in _FORBIDDEN_NAMES:
            raise UnsafePathError("unsafe_path", f"The path {shown} names {segment}, which no tree may hold.")
    return path
