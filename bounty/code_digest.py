"""Digest of a tree's code in its normal form: trees of one digest are the same candidate.

Python and C++ files count in their normal form (`bounty.normal_form`); notes (`.md`) do not count. Anything else, what
cannot be read, and very large files count byte for byte. Two Python trees of one digest compute the same, unless they
read their own notes. Two of C++ may differ: identifiers are numbered, so a call of another function has the same form.
"""

import hashlib
from functools import lru_cache
from pathlib import PurePosixPath

from benchmarks.patch.trees import BlobStore, Tree
from bounty.normal_form import normal_cpp, normal_python

_LABEL = b"gainshare.code/3"  # a new label needs a migration that computes stored digests again, as `0029_notes_left_out`
MAX_BYTES = 256 * 1024  # parsing is slow
CPP = frozenset({".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".inl"})
NOTES = frozenset({".md"})


def code_digest(tree: Tree, store: BlobStore) -> str:
    """SHA-256 in hex over the paths, modes and code of all files but notes. Raises TreeError for a missing blob."""
    whole = hashlib.sha256(_LABEL)
    for entry in sorted(tree.entries):
        suffix = PurePosixPath(entry.path).suffix
        if suffix in NOTES:
            continue
        is_code = suffix == ".py" or suffix in CPP
        code = _of_source(store.get(entry.blob), suffix) if is_code else bytes.fromhex(entry.blob)
        for part in (entry.path.encode(), b"%o" % entry.mode, code):
            whole.update(len(part).to_bytes(8) + part)
    return whole.hexdigest()


@lru_cache(maxsize=1024)  # most files of a tree are those of the tree before
def _of_source(source: bytes, suffix: str) -> bytes:
    """SHA-256 of the file's normal form; of its bytes where it has none."""
    if len(source) > MAX_BYTES:
        return hashlib.sha256(source).digest()
    try:
        text = source.decode()
        form = normal_python(text) if suffix == ".py" else normal_cpp(text)
        return hashlib.sha256(b"form\0" + form.encode("utf-8", "surrogatepass")).digest()
    except ValueError:  # no text, or no Python
        return hashlib.sha256(source).digest()
