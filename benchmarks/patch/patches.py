"""Patches: a strict reading of unified diffs and their exact application to a tree.

A patch either applies at the lines it names, with every context and removed line equal to the byte, or it is refused.
Nothing is searched for, ignored or repaired. What is read is the form `git diff --no-renames` writes (and the plain
`--- a/P`, `+++ b/P` form); the parser itself is in `benchmarks.patch.diffs`.
"""

import codecs
import difflib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from benchmarks.patch.diffs import Change, FilePatch, Hunk, PatchError, parse_files
from benchmarks.patch.paths import UnsafePathError
from benchmarks.patch.trees import MAX_FILE_BYTES, PLAIN, BlobStore, Tree, TreeEntry, TreeError, sha256_hex

__all__ = [
    "Change",
    "FilePatch",
    "Hunk",
    "Patch",
    "PatchError",
    "apply_patch",
    "diff_trees",
    "normalise",
    "parse_patch",
]

MAX_PATCH_BYTES = 1024 * 1024
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NO_NEWLINE = b"\\ No newline at end of file\n"


@dataclass(frozen=True)
class Patch:
    """A parsed patch: files sorted by path, each named once."""

    files: tuple[FilePatch, ...]
    size_bytes: int  # of the text that was read

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths it touches, sorted."""
        return tuple(file.path for file in self.files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the normalised text: equal for patches that make the same changes in another form."""
        return sha256_hex(normalise(self).encode())


def parse_patch(text: str | bytes) -> Patch:
    """Read a unified diff. Raises PatchError, and nothing else, for whatever is not exact."""
    if isinstance(text, str):
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise PatchError("encoding", "The patch contains lone surrogates: send it as UTF-8.") from None
    else:
        data = bytes(text)
    if len(data) > MAX_PATCH_BYTES:
        raise PatchError(
            "too_large",
            f"The patch has {len(data)} bytes, more than {MAX_PATCH_BYTES}: split it into smaller ones.",
        )
    if not data.strip():
        raise PatchError("empty", "The patch is empty: send the output of `git diff`.")
    if data.startswith(_BYTE_ORDER_MARKS):
        raise PatchError(
            "encoding",
            "The patch begins with a byte order mark, as some shells and editors write it: make it with "
            "`git diff --no-renames --output=FILE` and send it as it is.",
        )
    if b"\0" in data:
        raise PatchError("binary", "The patch contains NUL bytes: only text files can be patched.")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise PatchError(
            "encoding", "The patch is not UTF-8: only UTF-8 text files can be patched."
        ) from None
    if not data.endswith(b"\n"):
        raise PatchError(
            "truncated",
            "The patch does not end with a newline, so it may be cut off: send the whole file as it is.",
        )
    files = sorted(parse_files(data), key=lambda file: file.path)
    spellings: dict[str, str] = {}
    for file in files:
        other = spellings.setdefault(file.path.lower(), file.path)
        if other != file.path:
            raise PatchError(
                "case_collision", f"{file.path} and {other} differ only in letter case: rename one."
            )
    for before, after in pairwise(files):
        if before.path == after.path:
            raise PatchError(
                "duplicate_file", f"The patch has two parts for {after.path}: join them into one."
            )
    return Patch(tuple(files), len(data))


def normalise(patch: Patch) -> str:
    """The one canonical text of a patch: files sorted, no index lines, dates or section headings.

    `parse_patch(normalise(p))` has the same files as `p`.
    """
    out: list[bytes] = []
    for file in patch.files:
        name = file.path.encode()
        out.append(b"diff --git a/%b b/%b\n" % (name, name))
        old, new = b"a/" + name, b"b/" + name
        if file.change is Change.ADD:
            out.append(b"new file mode 100%o\n" % (file.mode or PLAIN))
            old = b"/dev/null"
        elif file.change is Change.DELETE:
            out.append(b"deleted file mode 100%o\n" % PLAIN)
            new = b"/dev/null"
        if file.hunks:
            out.append(b"--- %b\n+++ %b\n" % (old, new))
        for hunk in file.hunks:
            out.append(
                b"@@ -%d,%d +%d,%d @@\n" % (hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count)
            )
            out += map(_written, hunk.lines)
    return b"".join(out).decode()


def apply_patch(tree: Tree, patch: Patch, store: BlobStore) -> Tree:
    """The tree that results from applying `patch` to `tree`; new blobs are put into `store`.

    Raises PatchError `does_not_apply` (with the path and line), `no_change`, `too_large`, `case_collision` or
    `path_conflict`. A blob missing from `store` raises TreeError: that is not the patch's fault.
    """
    entries = {entry.path: entry for entry in tree.entries}
    for file in patch.files:
        entry = entries.get(file.path)
        if file.change is Change.ADD:
            if entry is not None:
                raise PatchError(
                    "does_not_apply", f"{file.path} exists already: make the diff against this tree."
                )
            entries[file.path] = TreeEntry(file.path, file.mode or PLAIN, _put(file, b"", store))
            continue
        if entry is None:
            raise PatchError(
                "does_not_apply", f"{file.path} is not in the tree: make the diff against this tree."
            )
        content = store.get(entry.blob)
        if file.change is Change.DELETE:
            if _patched(file, content):
                raise PatchError(
                    "does_not_apply",
                    f"{file.path} would be deleted, but the patch does not remove all its lines.",
                )
            del entries[file.path]
        else:
            entries[file.path] = TreeEntry(file.path, entry.mode, _put(file, content, store))
    try:
        result = Tree(tuple(sorted(entries.values())))
    except (TreeError, UnsafePathError) as error:
        raise PatchError(error.code, error.message) from None
    if result.hash == tree.hash:
        raise PatchError("no_change", "The patch changes nothing: the resulting tree is the base tree.")
    return result


def _put(file: FilePatch, content: bytes, store: BlobStore) -> str:
    patched = _patched(file, content)
    if len(patched) > MAX_FILE_BYTES:
        raise PatchError(
            "too_large", f"{file.path} would have more than {MAX_FILE_BYTES} bytes: trees hold source."
        )
    return store.put(patched)


def _patched(file: FilePatch, content: bytes) -> bytes:
    """`content` with every hunk applied exactly where it says, or PatchError `does_not_apply`."""
    lines = _lines(content)
    out: list[bytes] = []
    position = 0
    for hunk in file.hunks:
        if hunk.old_index > len(lines):
            raise PatchError(
                "does_not_apply",
                f"{file.path}:{hunk.old_index}: the file has {len(lines)} lines. Make the diff against this tree.",
            )
        out += lines[position : hunk.old_index]
        position = hunk.old_index
        for line in hunk.lines:
            sign, body = line[:1], line[1:]
            if sign == b"+":
                out.append(body)
                continue
            found = lines[position] if position < len(lines) else None
            if found != body:
                raise PatchError("does_not_apply", _mismatch(file.path, position + 1, body, found))
            position += 1
            if sign == b" ":
                out.append(body)
    out += lines[position:]
    for number, line in enumerate(out[:-1], 1):
        if not line.endswith(b"\n"):
            raise PatchError(
                "does_not_apply",
                f"{file.path}:{number} would be joined with the next line: it has no newline.",
            )
    return b"".join(out)


def _mismatch(path: str, number: int, expected: bytes, found: bytes | None) -> str:
    def shown(line: bytes) -> str:
        return ascii(line[:120].decode(errors="replace"))

    there = "the file ends before it" if found is None else f"the tree has {shown(found)}"
    return f"{path}:{number}: the patch expects {shown(expected)}, {there}. Make the diff against this tree."


def diff_trees(base: Tree, candidate: Tree, store: BlobStore) -> str:
    """The patch that turns `base` into `candidate`, in the form `parse_patch` reads.

    Raises PatchError `mode_change` when a file's mode differs, `binary` or `encoding` for files that are not
    UTF-8 text, `empty` when the trees are equal.
    """
    out: list[bytes] = []
    for path in sorted({e.path for e in base.entries} | {e.path for e in candidate.entries}):
        old, new = base.get(path), candidate.get(path)
        if old == new:
            continue
        if old and new and old.mode != new.mode:
            raise PatchError("mode_change", f"{path} changes its mode: patches change contents only.")
        before, after = (_lines(store.get(entry.blob)) if entry else [] for entry in (old, new))
        name = path.encode()
        out.append(b"diff --git a/%b b/%b\n" % (name, name))
        if old is None and new is not None:
            out.append(b"new file mode 100%o\n" % new.mode)
        elif old is not None and new is None:
            out.append(b"deleted file mode 100%o\n" % old.mode)
        body = difflib.diff_bytes(
            difflib.unified_diff,
            before,
            after,
            b"a/" + name if old else b"/dev/null",
            b"b/" + name if new else b"/dev/null",
        )
        out += map(_written, body)
    data = b"".join(out)
    parse_patch(data)
    return data.decode()


def _written(line: bytes) -> bytes:
    """A body line as a diff writes it, with the marker for a missing newline."""
    return line if line.endswith(b"\n") else line + b"\n" + _NO_NEWLINE


def _lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
