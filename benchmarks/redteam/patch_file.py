"""Reads the red team's patch files: a header of `# key: words` lines, then a unified diff. See the package for the keys.

The header is read strictly, because expectations are in it: a misspelt key must not pass for a missing one. The diff
is kept byte for byte.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.judging.verdicts import VerdictKind

ROOT = Path(__file__).resolve().parents[2]
CHEATS = ROOT / "tests" / "acceptance" / "cheats"
HONEST = ROOT / "tests" / "acceptance" / "honest"
DEFAULT_PRESET = "tiny"
REFUSALS = frozenset({"wrong_output", "policy_violation", "suspicious", "patch_rejected"})

_FILE = re.compile(r"([0-9]{2,3})-([a-z0-9-]+)")
_KEY = re.compile(r"# ([a-z-]+): (.+)")
_MORE = re.compile(r"# {3,}(.+)")
_REQUIRED = frozenset({"class", "suite", "expect", "seam", "why"})
_CHEATS_ONLY = frozenset({"naive", "wins-by"})
_OPTIONAL = frozenset({"base", "old", "paid", "pad"})
_BEGINNINGS = (b"diff --git ", b"--- ")


class PatchFileError(ValueError):
    """A patch file whose header cannot be read. The message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class RedTeamPatch:
    """One patch file. `diff` is what goes to the judge, padding included; `header` is kept for re-cutting."""

    path: Path
    name: str  # without number and suffix
    number: int
    is_cheat: bool
    group: str  # "5 caching", "honest faster"
    suite: str
    preset: str
    naive: str  # the harness of the positive control; "" for honest patches
    wins_by: str
    expect: frozenset[str]
    seam: str
    why: str
    base: str  # a diff below the repository that makes the base tree; "" for the shipped one
    old: str  # a diff below the repository that makes the tree before base; "" for the shipped one
    paid_log_ppm: int  # what was paid for base over that tree; 0 where nothing was
    header: bytes
    diff: bytes


def read_patch_file(path: Path) -> RedTeamPatch:
    """Raises PatchFileError."""
    found = _FILE.fullmatch(path.stem)
    if found is None:
        raise PatchFileError(f"{path.name}: a patch is named NN-name.diff, in lower case with hyphens")
    header, diff = split_header(path.read_bytes())
    if not diff:
        raise PatchFileError(f"{path.name}: no diff follows the header")
    fields = _fields(path.name, header.decode())
    is_cheat = "naive" in fields
    _check_keys(path.name, fields, is_cheat=is_cheat)
    suite, _, preset = fields["suite"].partition(" ")
    return RedTeamPatch(
        path=path,
        name=found[2],
        number=int(found[1]),
        is_cheat=is_cheat,
        group=fields["class"],
        suite=suite,
        preset=preset or DEFAULT_PRESET,
        naive=fields.get("naive", ""),
        wins_by=fields.get("wins-by", ""),
        expect=_expected(path.name, fields["expect"], is_cheat=is_cheat),
        seam=fields["seam"],
        why=fields["why"],
        base=fields.get("base", ""),
        old=fields.get("old", ""),
        paid_log_ppm=_paid(path.name, fields),
        header=header,
        diff=diff + _padding(path.name, fields.get("pad", "")),
    )


def split_header(data: bytes) -> tuple[bytes, bytes]:
    """(header, diff): the diff begins with the first line that a unified diff can begin with."""
    lines = data.splitlines(keepends=True)
    start = next((at for at, line in enumerate(lines) if line.startswith(_BEGINNINGS)), len(lines))
    return b"".join(lines[:start]), b"".join(lines[start:])


def read_folder(folder: Path) -> list[RedTeamPatch]:
    """All patches of one folder by number. Raises PatchFileError, also for a missing folder."""
    if not folder.is_dir():
        raise PatchFileError(f"{folder} is missing: the red team's patches are only in a checkout")
    patches = sorted(
        map(read_patch_file, folder.glob("*.diff")), key=lambda patch: (patch.number, patch.name)
    )
    for patch in patches:
        if patch.is_cheat != (folder.name == CHEATS.name):
            raise PatchFileError(
                f"{patch.path.name}: cheats have `naive` and `wins-by`, honest patches do not"
            )
    return patches


def read_all(folders: Iterable[Path] = (CHEATS, HONEST)) -> list[RedTeamPatch]:
    """The patches of `folders`; raises PatchFileError where two have one name."""
    patches = [patch for folder in folders for patch in read_folder(folder)]
    names: set[str] = set()
    for patch in patches:
        if patch.name in names:
            raise PatchFileError(f"{patch.path.name}: another patch is called {patch.name} too")
        names.add(patch.name)
    return patches


def _fields(file: str, header: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in header.splitlines():
        if found := _KEY.fullmatch(line):
            key = found[1]
            if key in fields:
                raise PatchFileError(f"{file}: `{key}` is repeated in the header")
            fields[key] = found[2].strip()
        elif key and (more := _MORE.fullmatch(line)):
            fields[key] += " " + more[1].strip()
        else:
            raise PatchFileError(f"{file}: {line[:60]!r} is no `# key: words` line")
    return fields


def _check_keys(file: str, fields: dict[str, str], *, is_cheat: bool) -> None:
    required = _REQUIRED | _CHEATS_ONLY if is_cheat else _REQUIRED
    if missing := required - set(fields):
        raise PatchFileError(f"{file}: the header lacks {', '.join(sorted(missing))}")
    if unknown := set(fields) - required - _OPTIONAL:
        raise PatchFileError(f"{file}: the header has an unknown key {', '.join(sorted(unknown))}")


def _expected(file: str, words: str, *, is_cheat: bool) -> frozenset[str]:
    expect = frozenset(word.strip() for word in words.split(","))
    if unknown := expect - {kind.value for kind in VerdictKind}:
        raise PatchFileError(f"{file}: {', '.join(sorted(unknown))} is no verdict")
    if is_cheat and "gain" in expect:
        raise PatchFileError(f"{file}: a cheat never expects a gain")
    if not is_cheat and expect & REFUSALS:
        raise PatchFileError(f"{file}: an honest patch never expects to be refused")
    return expect


def _paid(file: str, fields: dict[str, str]) -> int:
    words = fields.get("paid", "")
    if not words:
        if "old" in fields:
            raise PatchFileError(f"{file}: `old` is the tree before a base that was `paid` for")
        return 0
    if "base" not in fields or not words.isdecimal() or int(words) == 0:
        raise PatchFileError(f"{file}: `paid` is a number of millionths of a nat that was paid for a `base`")
    return int(words)


def _padding(file: str, words: str) -> bytes:
    """A new file of comment lines, at least so many bytes long as text of the diff."""
    if not words:
        return b""
    path, _, size = words.partition(" ")
    if not size.isdecimal():
        raise PatchFileError(f"{file}: `pad` is a path and a number of bytes")
    line = b"+# " + b"." * 96 + b"\n"
    count = int(size) // len(line) + 1
    name = path.encode()
    head = b"diff --git a/%b b/%b\nnew file mode 100644\n--- /dev/null\n+++ b/%b\n" % (name, name, name)
    return head + b"@@ -0,0 +1,%d @@\n" % count + line * count
