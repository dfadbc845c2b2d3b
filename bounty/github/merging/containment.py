"""Whether a tree has a patch's change in it, at whatever place of its files. Pure."""

from benchmarks.patch.patches import Change, Hunk, Patch
from benchmarks.patch.trees import BlobStore, Tree


def contains(tree: Tree, patch: Patch, store: BlobStore) -> bool:
    """Whether every hunk's new lines are in the tree's file, one after the other, and its old lines are not."""
    for file in patch.files:
        entry = tree.get(file.path)
        if file.change is Change.DELETE:
            if entry is not None:
                return False
            continue
        if entry is None:
            return False
        lines = [line + b"\n" for line in store.get(entry.blob).split(b"\n")]
        if not all(_has(lines, hunk) for hunk in file.hunks):
            return False
    return True


def _has(lines: list[bytes], hunk: Hunk) -> bool:
    new = [_line(line) for line in hunk.lines if line[:1] != b"-"]
    old = [_line(line) for line in hunk.lines if line[:1] != b"+"]
    return _is_in(lines, new) and not (len(old) > len(new) and _is_in(lines, old))


def _is_in(lines: list[bytes], block: list[bytes]) -> bool:
    if not block:
        return True
    starts = [index for index, line in enumerate(lines) if line == block[0]]
    return any(lines[start : start + len(block)] == block for start in starts)


def _line(signed: bytes) -> bytes:
    """A hunk's line without its sign; whether a newline ends the file makes no difference here."""
    return signed[1:].removesuffix(b"\n") + b"\n"
