"""Trees of the stack as files of a repository, without a site: the shipped one, and what a diff makes of it."""

from __future__ import annotations

from benchmarks.patch.blobs import BlobStore
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.trees import EXECUTABLE, Tree
from bounty.github.standin.git import File


def patched(tree: Tree, diff: str, store: BlobStore) -> Tree:
    """The tree with a diff applied. Raises PatchError."""
    return apply_patch(tree, parse_patch(diff), store)


def files_of(tree: Tree, store: BlobStore) -> dict[str, File]:
    """Path -> the file, as a commit takes it."""
    return {
        entry.path: File(store.get(entry.blob), "100755" if entry.mode == EXECUTABLE else "100644")
        for entry in tree.entries
    }


def changes(before: dict[str, File], after: dict[str, File]) -> dict[str, File | None]:
    """What a commit has to do to get from one to the other; None deletes."""
    changed: dict[str, File | None] = {path: file for path, file in after.items() if file != before.get(path)}
    return changed | {path: None for path in before if path not in after}
