"""The grammar of unified diffs, read strictly: bytes in, file changes out, or one PatchError.

Source of the format: git's documentation "diff-generate-patch" and POSIX `diff -u`. Each refusal has another code
and a message that says what to do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from benchmarks.patch.paths import Refusal, UnsafePathError, check_path
from benchmarks.patch.trees import EXECUTABLE, PLAIN

MAX_FILES = 1_000
_HUNK = re.compile(
    rb"@@ -(0|[1-9][0-9]{0,8})(?:,(0|[1-9][0-9]{0,8}))? \+(0|[1-9][0-9]{0,8})(?:,(0|[1-9][0-9]{0,8}))? @@( .*)?\n"
)
_INDEX = re.compile(rb"index [0-9a-f]{4,64}\.\.[0-9a-f]{4,64}(?: ([0-7]{6}))?\n")
_MODE = re.compile(rb"(new|deleted) file mode ([0-7]{6})\n")
_AS_GIT = "send the output of `git diff --no-renames` as it is"
_RENAMES = (
    b"rename from ",
    b"rename to ",
    b"copy from ",
    b"copy to ",
    b"similarity index ",
    b"dissimilarity index ",
)
_COMBINED = (b"diff --cc ", b"diff --combined ", b"@@@ ")
_BINARY = (b"GIT binary patch", b"Binary files ")
_MODES = {b"100644": PLAIN, b"100755": EXECUTABLE}


class PatchError(Refusal):
    """A patch that is refused. `code` names the rule that it breaks, `message` says what to do."""


class Change(StrEnum):
    """Change of one file by a patch."""

    ADD = "add"
    DELETE = "delete"
    MODIFY = "modify"


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk. Starts and counts are those of its header; `lines` are its body with their signs ' ', '+', '-'.

    Each line ends with a newline, except one that is the last of its file and has none there.
    """

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    lines: tuple[bytes, ...]

    @property
    def old_index(self) -> int:
        """Number of lines of the old file before the hunk."""
        return self.old_start - 1 if self.old_count else self.old_start

    @property
    def new_index(self) -> int:
        """Number of lines of the new file before the hunk."""
        return self.new_start - 1 if self.new_count else self.new_start


@dataclass(frozen=True, slots=True)
class FilePatch:
    """Patch of one file. `mode` is that of an added file; None for others, whose mode stays as it is."""

    path: str
    change: Change
    mode: int | None
    hunks: tuple[Hunk, ...]


@dataclass
class _Section:
    """The headers of one file's part while they are read."""

    path: str | None = None  # from `diff --git`
    change: Change | None = None  # from `new file mode`, `deleted file mode`
    mode: int | None = None
    hunks: list[Hunk] = field(default_factory=list)


class _Reader:
    """The patch's lines with a position. Lines keep their newline; only `\\n` ends a line."""

    def __init__(self, data: bytes) -> None:
        self.lines = data.split(b"\n")
        self.lines.pop()  # what follows the final newline: nothing
        self.at = 0

    def peek(self) -> bytes:
        """The current line with its newline, or b"" at the end."""
        return self.lines[self.at] + b"\n" if self.at < len(self.lines) else b""

    def take(self) -> bytes:
        line = self.peek()
        self.at += 1
        return line

    def fail(self, code: str, message: str) -> NoReturn:
        raise PatchError(code, f"Line {self.at + 1} of the patch: {message}")


def parse_files(data: bytes) -> Iterator[FilePatch]:
    """Yield each file's part of `data` (text that ends with a newline), in the order written."""
    reader = _Reader(data)
    while reader.lines and reader.lines[-1] == b"":
        reader.lines.pop()  # blank lines after the last hunk say nothing
    count = 0
    while line := reader.peek():
        count += 1
        if count > MAX_FILES:
            raise PatchError("too_large", f"The patch touches more than {MAX_FILES} files: split it.")
        _refuse_known(reader, line)
        if line.startswith(b"diff --git "):
            yield _git_section(reader)
        elif line.startswith(b"--- "):
            yield _body(reader, _Section())
        else:
            _refuse_unknown(reader, line)


def _refuse_known(reader: _Reader, line: bytes) -> None:
    """Forms that are understood and refused, each with its own code."""
    if line.startswith(_COMBINED):
        reader.fail("combined", "this is a combined diff of a merge: make a plain diff between two trees.")
    if line.startswith(_BINARY):
        reader.fail("binary", "binary files cannot be patched: only text files can.")
    if line.startswith(_RENAMES):
        reader.fail("rename", "renames and copies are not read: make the diff with `git diff --no-renames`.")
    if line.startswith((b"old mode ", b"new mode ")):
        reader.fail(
            "mode_change",
            "file modes cannot be changed: leave the mode as it is (`git config core.fileMode`).",
        )
    if line.startswith(b"Submodule "):
        reader.fail("submodule", "submodules cannot be patched.")
    if line.endswith(b"\r\n"):
        reader.fail("crlf", f"it ends with CR LF, so the patch's line ends were converted: {_AS_GIT}.")


def _refuse_unknown(reader: _Reader, line: bytes) -> NoReturn:
    if line.startswith(b"\x1b["):
        reader.fail("malformed", "it is coloured for a terminal: use `git diff --no-renames --no-color`.")
    if line.startswith(b"@@"):
        reader.fail(
            "malformed",
            f"a hunk without `---` and `+++` lines, or with wrong line counts before it: {_AS_GIT}.",
        )
    if line[:1] in b" +-\\" and reader.at:
        reader.fail("malformed", "more lines than the hunk's header counts: do not edit a diff by hand.")
    reader.fail(
        "malformed", f"{line[:60].decode(errors='replace')!a} is not part of a unified diff: {_AS_GIT}."
    )


def _git_section(reader: _Reader) -> FilePatch:
    line = reader.take()
    names = line[len(b"diff --git ") : -1]
    reader.at -= 1
    if b'"' in names:
        reader.fail(
            "unsafe_path", "a quoted path: use only letters, digits and _ . + - / (ASCII) in file names."
        )
    half, odd = divmod(len(names) - 1, 2)
    old, new = names[:half], names[half + 1 :]
    section = _Section()
    if (
        not odd
        and names[half : half + 1] == b" "
        and old[:2] == b"a/"
        and new[:2] == b"b/"
        and old[2:] == new[2:]
    ):
        section.path = _path(reader, old[2:])
    reader.at += 1
    while line := reader.peek():
        _refuse_known(reader, line)
        if found := _INDEX.fullmatch(line):
            _note_mode(reader, section, found.group(1), section.change)
        elif found := _MODE.fullmatch(line):
            if section.change is not None:
                reader.fail("malformed", f"a second mode line for one file: {_AS_GIT}.")
            change = Change.ADD if found.group(1) == b"new" else Change.DELETE
            _note_mode(reader, section, found.group(2), change)
        else:
            break
        reader.at += 1
    if section.path is None:  # the names differ: a rename, a copy, or something written by hand
        reader.at -= 1
        _refuse_names(reader, names)
    if line.startswith(b"--- "):
        return _body(reader, section)
    if section.change is None:
        reader.fail("malformed", f"the part for {section.path} has no change: {_AS_GIT}.")
    mode = (section.mode or PLAIN) if section.change is Change.ADD else None
    return FilePatch(section.path, section.change, mode, ())  # an empty file appears or goes


def _refuse_names(reader: _Reader, names: bytes) -> NoReturn:
    for prefix, name in zip((b"a/", b"b/"), names.split(b" ", 1), strict=False):
        if not name.startswith(prefix):
            reader.fail("bad_prefix", "paths must begin with a/ and b/: use `git diff --default-prefix`.")
        _path(reader, name[2:])
    reader.fail("rename", f"{names[:120].decode()!a}: the two paths differ; renames are not read.")


def _note_mode(reader: _Reader, section: _Section, mode: bytes | None, change: Change | None) -> None:
    section.change = change
    if mode is None:
        return
    if mode == b"120000":
        reader.fail("symlink", "symbolic links cannot be patched: use a plain file.")
    if mode == b"160000":
        reader.fail("submodule", "submodules cannot be patched.")
    if mode not in _MODES:
        reader.fail("mode_change", f"mode {mode.decode()} is not allowed: only 100644 and 100755 are.")
    if section.mode not in (None, _MODES[mode]):
        reader.fail("mode_change", "the part states two different modes.")
    section.mode = _MODES[mode]


def _path(reader: _Reader, name: bytes) -> str:
    try:
        return check_path(name.decode(errors="surrogateescape"))
    except UnsafePathError as error:
        reader.fail(error.code, error.message)


def _header_path(reader: _Reader, prefix: bytes, marker: bytes) -> str | None:
    """The path of a `---` or `+++` line; None means /dev/null."""
    line = reader.peek()
    _refuse_known(reader, line)
    if not line.startswith(marker):
        reader.fail("malformed", f"expected a `{marker.decode().strip()}` line here: {_AS_GIT}.")
    name = line[len(marker) : -1].split(b"\t", 1)[0]  # after a tab: a time, as `diff -u` writes it
    if name == b"/dev/null":
        path = None
    elif name.startswith(b'"'):
        reader.fail(
            "unsafe_path", "a quoted path: use only letters, digits and _ . + - / (ASCII) in file names."
        )
    elif not name.startswith(prefix):
        _path(reader, name)  # an escape is named as one
        reader.fail("bad_prefix", "paths must begin with a/ and b/: use `git diff --default-prefix`.")
    else:
        path = _path(reader, name[2:])
    reader.at += 1
    return path


def _body(reader: _Reader, section: _Section) -> FilePatch:
    """The `---` and `+++` lines and the hunks of one file."""
    old = _header_path(reader, b"a/", b"--- ")
    new = _header_path(reader, b"b/", b"+++ ")
    reader.at -= 1
    if old is None and new is None:
        reader.fail("malformed", "both sides are /dev/null.")
    if old is not None and new is not None and old != new:
        reader.fail("rename", f"{old} and {new} differ: renames are not read, use `git diff --no-renames`.")
    path = new if new is not None else old
    assert path is not None
    change = Change.ADD if old is None else Change.DELETE if new is None else Change.MODIFY
    if section.path not in (None, path):
        reader.fail("malformed", f"the part for {section.path} names {path}: {_AS_GIT}.")
    if section.path is not None and (section.change or Change.MODIFY) is not change:
        reader.fail("malformed", f"{path}: the mode lines and /dev/null contradict each other: {_AS_GIT}.")
    reader.at += 1
    while reader.peek().startswith(b"@@ "):
        section.hunks.append(_hunk(reader, section.hunks))
    if not section.hunks:
        _refuse_known(reader, reader.peek())
        reader.fail("malformed", f"{path} has no hunk after its `+++` line: {_AS_GIT}.")
    first = section.hunks[0]
    if change is Change.ADD and (
        len(section.hunks) > 1 or first.old_count or first.old_start or not first.new_count
    ):
        reader.fail("malformed", f"{path} is new, so its one hunk must begin `@@ -0,0 +1`.")
    if change is Change.DELETE and (len(section.hunks) > 1 or first.new_count or first.new_start):
        reader.fail("malformed", f"{path} is deleted, so its one hunk must end `+0,0 @@`.")
    mode = (section.mode or PLAIN) if change is Change.ADD else None
    return FilePatch(path, change, mode, tuple(section.hunks))


def _hunk(reader: _Reader, before: list[Hunk]) -> Hunk:
    header = _HUNK.fullmatch(reader.peek())
    if header is None:
        _refuse_known(reader, reader.peek())
        reader.fail("malformed", f"this hunk header cannot be read: {_AS_GIT}.")
    old_start, old_count, new_start, new_count = (
        1 if group is None else int(group) for group in header.groups()[:4]
    )
    if (old_count and not old_start) or (new_count and not new_start):
        reader.fail("malformed", "lines are numbered from 1.")
    hunk = Hunk(old_start, old_count, new_start, new_count, ())
    _check_position(reader, hunk, before)
    reader.at += 1
    lines: list[bytes] = []
    old_ended = new_ended = False  # a line without newline was read on that side: nothing may follow
    while old_count or new_count or reader.peek().startswith(b"\\ "):
        line = reader.peek()
        sign = line[:1]
        if sign == b"\\" and line.startswith(b"\\ "):
            if not lines or not lines[-1].endswith(b"\n"):
                reader.fail("malformed", "`\\ No newline` follows no line.")
            old_ended |= lines[-1][:1] in b" -"
            new_ended |= lines[-1][:1] in b" +"
            lines[-1] = lines[-1][:-1]
            reader.at += 1
            continue
        takes_old, takes_new = sign in (b" ", b"-"), sign in (b" ", b"+")
        if not (takes_old or takes_new) or takes_old > old_count or takes_new > new_count:
            reader.fail("malformed", _miscount(line))
        if (takes_old and old_ended) or (takes_new and new_ended):
            reader.fail("malformed", "a line follows the last line of the file.")
        old_count -= takes_old
        new_count -= takes_new
        lines.append(line)
        reader.at += 1
    if not any(line[:1] in b"+-" for line in lines):
        reader.at -= 1
        reader.fail("malformed", "the hunk ending here changes nothing.")
    return Hunk(old_start, hunk.old_count, new_start, hunk.new_count, tuple(lines))


def _check_position(reader: _Reader, hunk: Hunk, before: list[Hunk]) -> None:
    """Hunks must come in order, without overlap, each new position following from the old one."""
    end = shift = 0
    if before:
        last = before[-1]
        end = last.old_index + last.old_count
        shift = last.new_index + last.new_count - end
        if any(not line.endswith(b"\n") for line in last.lines):
            reader.fail("malformed", "a hunk follows the last line of the file.")
    if hunk.old_index < end or hunk.new_index != hunk.old_index + shift:
        reader.fail(
            "malformed", "the hunk's line numbers contradict those before it: do not edit a diff by hand."
        )


def _miscount(line: bytes) -> str:
    if not line:
        return "the patch ends inside a hunk, so it was cut off: send the whole file as it is."
    if line == b"\n":
        return "an empty line inside a hunk, so trailing spaces were removed: send the diff as git wrote it."
    return "the hunk's header counts other lines than its body has: do not edit a diff by hand."
