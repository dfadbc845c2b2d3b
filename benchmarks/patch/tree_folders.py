"""Trees as folders that a sandbox may mount: written fresh from verified blobs for each use, and gone afterwards."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.patch.trees import BlobStore, Tree, write_tree


@contextmanager
def tree_folders(trees: Iterable[Tree], store: BlobStore, parent: Path) -> Iterator[dict[str, Path]]:
    """Tree hash -> folder below `parent`, whose earlier content (of a killed run) is removed. Raises TreeError."""
    shutil.rmtree(parent, ignore_errors=True)
    folders: dict[str, Path] = {}
    try:
        for tree in trees:
            if tree.hash not in folders:
                folders[tree.hash] = parent / tree.hash
                write_tree(tree, store, folders[tree.hash])
        _open_folders(parent)
        yield folders
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _open_folders(parent: Path) -> None:
    """Readable for the sandbox's own uids, whatever this process's umask is."""
    for folder, _, _ in os.walk(parent):
        Path(folder).chmod(0o755)
