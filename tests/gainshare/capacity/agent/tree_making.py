"""Trees for tests of deployments: the installed one with changes. Without C++ sources they build within seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, sha256_hex, shipped_tree

OPEN = "model/serving/engine/fairness.py"  # imported by every node, and open to patches
PROTECTED = "model/serving/node/__init__.py"
MARK = "this node executes the deployed tree"


def installed(folder: Path) -> tuple[Tree, dict[str, bytes]]:
    """The installed tree and its blobs."""
    store = BlobStore(folder)
    tree = shipped_tree(store)
    return tree, {entry.blob: store.get(entry.blob) for entry in tree.entries}


def changed(
    base: tuple[Tree, dict[str, bytes]], files: dict[str, bytes | None], *, has_csrc: bool = False
) -> tuple[Tree, dict[str, bytes]]:
    """`base` with other files; None takes one away. Its C++ sources are left out unless `has_csrc`."""
    tree, blobs = base
    entries = {
        entry.path: entry
        for entry in tree.entries
        if has_csrc or not (entry.path.startswith("model/csrc/") and entry.path.endswith(".cpp"))
    }
    new = dict(blobs)
    for path, content in files.items():
        if content is None:
            del entries[path]
            continue
        name = sha256_hex(content)
        new[name], entries[path] = content, TreeEntry(path, 0o644, name)
    return Tree(tuple(sorted(entries.values()))), new


def speaking(base: tuple[Tree, dict[str, bytes]], words: str = MARK) -> tuple[Tree, dict[str, bytes]]:
    """A tree whose nodes print `words` when they start."""
    tree, blobs = base
    entry = tree.get(OPEN)
    assert entry is not None
    return changed(base, {OPEN: blobs[entry.blob] + f"\nprint({words!r}, flush=True)\n".encode()})
