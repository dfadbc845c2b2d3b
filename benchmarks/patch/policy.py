"""The policy: what a patch may touch, how big it may be, which sandboxes earn awards. Read from `policy.toml`.

Also the hash of the judge itself (`harness_hash`), which every evidence has, next to the policy's.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.patch.diffs import FilePatch
from benchmarks.patch.hidden_text import escaped, hidden_character
from benchmarks.patch.patches import Patch
from benchmarks.patch.paths import Refusal
from benchmarks.patch.trees import PLAIN, TreeEntry, hash_entries, scan_files, sha256_hex

POLICY_FILE = Path(__file__).parents[1] / "policy.toml"
HARNESS_VERSION = "1"


class PolicyViolation(Refusal):
    """A patch outside the policy. `code`: outside, protected, file_type, hidden_character, too_many_files or too_large."""

    def __init__(self, code: str, message: str, path: str | None = None) -> None:
        super().__init__(code, message)
        self.path = path


class PolicyFileError(ValueError):
    """policy.toml itself is wrong: the installation is broken."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of `policy.toml`, and its SHA-256."""

    hash: str
    max_bytes: int
    max_files: int
    allowed: tuple[str, ...]
    protected: tuple[str, ...]
    file_types: tuple[str, ...]
    award_sandbox_levels: tuple[str, ...]


def parse_policy(data: bytes) -> Policy:
    """Read a policy file's bytes; raises PolicyFileError for anything missing, unknown or of a wrong type."""
    try:
        document = tomllib.loads(data.decode())
        if set(document) != {"version", "patch", "awards"} or document["version"] != 1:
            raise PolicyFileError("a policy has exactly version = 1, [patch] and [awards]")
        patch, awards = document["patch"], document["awards"]
        if set(patch) != {"max_bytes", "max_files", "allowed", "protected", "file_types"}:
            raise PolicyFileError(
                "[patch] has exactly max_bytes, max_files, allowed, protected and file_types"
            )
        return Policy(
            hash=sha256_hex(data),
            max_bytes=_positive(patch["max_bytes"]),
            max_files=_positive(patch["max_files"]),
            allowed=_strings(patch["allowed"]),
            protected=_strings(patch["protected"]),
            file_types=_strings(patch["file_types"]),
            award_sandbox_levels=_strings(awards["sandbox_levels"]),
        )
    except (KeyError, TypeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyFileError(f"the policy file cannot be read: {error}") from error


def _positive(value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise PolicyFileError(f"{value!r} is not a positive integer")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise PolicyFileError(f"{value!r} is not a list of strings")
    return tuple(value)


@cache
def load_policy() -> Policy:
    """The installed policy."""
    return parse_policy(POLICY_FILE.read_bytes())


def check_size(policy: Policy, size_bytes: int) -> None:
    """Raise PolicyViolation for a patch whose text is longer than the policy allows: before it is parsed."""
    if size_bytes > policy.max_bytes:
        raise PolicyViolation(
            "too_large",
            f"The patch has {size_bytes} bytes, the policy allows {policy.max_bytes}: split it.",
        )


def check_patch(policy: Policy, patch: Patch) -> None:
    """Raise PolicyViolation for the first rule that `patch` breaks."""
    check_size(policy, patch.size_bytes)
    if len(patch.files) > policy.max_files:
        raise PolicyViolation(
            "too_many_files",
            f"The patch touches {len(patch.files)} files, the policy allows {policy.max_files}.",
        )
    for path in patch.paths:
        check_touched(policy, path)
    for file in patch.files:
        for number, line in _added(file):
            if hidden := hidden_character(line.decode("utf-8", "replace")):
                raise PolicyViolation(
                    "hidden_character",
                    f"{file.path}: added line {number} has the hidden character {hidden}, which a reviewer cannot see: "
                    f"write it as {escaped(hidden)}.",
                    file.path,
                )


def check_touched(policy: Policy, path: str) -> None:
    """Raise PolicyViolation if nothing may change at `path`: outside, protected, or of another kind."""
    if not any(_covers(pattern, path) for pattern in policy.allowed):
        raise PolicyViolation(
            "outside", f"{path} is outside {', '.join(policy.allowed)}: leave this file unchanged.", path
        )
    guard = next((pattern for pattern in policy.protected if _shadows(pattern, path)), None)
    if guard is not None:
        raise PolicyViolation(
            "protected",
            f"{path} is protected (or would take the place of {guard}): leave it unchanged.",
            path,
        )
    if not path.endswith(policy.file_types):
        raise PolicyViolation(
            "file_type",
            f"{path} is of a kind that patches may not touch: use {' '.join(policy.file_types)}.",
            path,
        )


def _added(file: FilePatch) -> Iterator[tuple[int, bytes]]:
    """The lines that the patch adds to the file, numbered from one."""
    added = (line[1:] for hunk in file.hunks for line in hunk.lines if line.startswith(b"+"))
    return enumerate(added, start=1)


def _covers(pattern: str, path: str) -> bool:
    """True if `pattern` names `path`: a file, or with a final `/**` anything below a folder."""
    if pattern.endswith("/**"):
        return path.startswith(pattern[:-2])
    return path == pattern


def _shadows(pattern: str, path: str) -> bool:
    """True if `path`, in any letter case, is protected by `pattern` or could be loaded in its place."""
    pattern, path = pattern.lower(), path.lower()
    if _covers(pattern, path):
        return True
    if not pattern.endswith((".py", "/**")):
        return False
    module = pattern.removesuffix(".py").removesuffix("/**")
    if PurePosixPath(path).parent == PurePosixPath(module).parent:
        return PurePosixPath(path).name.split(".", 1)[0] == PurePosixPath(module).name
    return path.startswith(module + "/")


@cache
def harness_hash() -> str:
    """Hash of the installed judge: the tree hash over every `.py` and `.toml` file of the package `benchmarks`.

    File modes are left out (each counts as 644): they differ between a clone and an installed wheel.
    """
    folder = Path(__file__).resolve().parents[1]
    return hash_entries(
        TreeEntry(path, PLAIN, sha256_hex(data))
        for path, _mode, data in scan_files(folder.parent, folder.name)
        if path.endswith((".py", ".toml"))
    )
