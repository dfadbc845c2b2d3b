"""The diff between two trees as the platform writes it: no setting or attribute of a repository has a say in it.

It has the form that `benchmarks.patch.patches` reads, and is made within a bound on work and size.
"""

from collections.abc import Iterator

from benchmarks.patch.patches import PatchError
from benchmarks.patch.policy import Policy, PolicyViolation
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from bounty.github.pulls.line_edits import CONTEXT, Edit, edits, hunks

NO_NEWLINE = b"\\ No newline at end of file\n"


def write_diff(base: Tree, head: Tree, store: BlobStore, policy: Policy) -> str:
    """The patch from `base` to `head`; empty where they are equal.

    Raises PolicyViolation where it changes more files, or is longer, than the policy allows, and PatchError for a change
    of a mode and for what is no UTF-8 text.
    """
    paths = sorted({entry.path for entry in set(base.entries) ^ set(head.entries)})
    if len(paths) > policy.max_files:
        raise PolicyViolation(
            "too_many_files",
            f"The change touches {len(paths)} files, the policy allows {policy.max_files}: split it.",
        )
    out: list[bytes] = []
    size = 0
    for path in paths:
        for part in _file(path, base.get(path), head.get(path), store):
            size += len(part)
            if size > policy.max_bytes:
                raise PolicyViolation(
                    "too_large",
                    f"The change has more than the {policy.max_bytes} bytes that the policy allows: split it.",
                )
            out.append(part)
    return b"".join(out).decode()


def _file(path: str, old: TreeEntry | None, new: TreeEntry | None, store: BlobStore) -> Iterator[bytes]:
    if old and new and old.mode != new.mode:
        raise PatchError("mode_change", f"{path} changes its mode: patches change contents only.")
    before, after = (_lines(path, entry, store) for entry in (old, new))
    name = path.encode()
    yield b"diff --git a/%b b/%b\n" % (name, name)
    if old is None and new is not None:
        yield b"new file mode 100%o\n" % new.mode
    if new is None and old is not None:
        yield b"deleted file mode 100%o\n" % old.mode
    found = edits(before, after)
    if found:
        yield b"--- %b\n" % (b"a/" + name if old else b"/dev/null")
        yield b"+++ %b\n" % (b"b/" + name if new else b"/dev/null")
    for group in hunks(found):
        yield from _hunk(group, before, after)


def _hunk(group: list[Edit], before: list[bytes], after: list[bytes]) -> Iterator[bytes]:
    start = max(group[0].start - CONTEXT, 0)
    end = min(group[-1].end + CONTEXT, len(before))
    new_start = group[0].new_start - (group[0].start - start)
    new_end = group[-1].new_end + (end - group[-1].end)
    yield b"@@ -%b +%b @@\n" % (_range(start, end), _range(new_start, new_end))
    at = start
    for edit in group:
        yield from (_written(b" ", line) for line in before[at : edit.start])
        yield from (_written(b"-", line) for line in before[edit.start : edit.end])
        yield from (_written(b"+", line) for line in after[edit.new_start : edit.new_end])
        at = edit.end
    yield from (_written(b" ", line) for line in before[at:end])


def _range(start: int, end: int) -> bytes:
    """A hunk's place: its first line counted from 1, or the line before it where it has none."""
    return b"%d,%d" % (start + 1 if end > start else start, end - start)


def _written(sign: bytes, line: bytes) -> bytes:
    return sign + line if line.endswith(b"\n") else sign + line + b"\n" + NO_NEWLINE


def _lines(path: str, entry: TreeEntry | None, store: BlobStore) -> list[bytes]:
    data = b"" if entry is None else store.get(entry.blob)
    if b"\0" in data:
        raise PatchError("binary", f"{path} has NUL bytes: only text files can be patched.")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise PatchError("encoding", f"{path} is not UTF-8: only UTF-8 text files can be patched.") from None
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
