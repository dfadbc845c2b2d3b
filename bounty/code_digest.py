"""Digest of a tree's code without comments and layout. Trees with the same digest compute the same.

Python files are read as tokens, without comments, blank lines and the width of spaces and indents; docstrings stay,
since code can read them. Anything else, and Python that cannot be read as tokens, counts byte for byte. Nothing is
parsed further, compiled or imported.
"""

import hashlib
import io
import tokenize
from functools import lru_cache

from benchmarks.patch.trees import BlobStore, Tree

_LABEL = b"gainshare.code/1"
_IGNORED = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING})
_LAYOUT = frozenset({tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER})
MAX_BYTES = 256 * 1024  # larger files count byte for byte: reading tokens is slow


def code_digest(tree: Tree, store: BlobStore) -> str:
    """SHA-256 in hex over the paths, modes and code of all files. Raises TreeError for a blob that the store lacks."""
    whole = hashlib.sha256(_LABEL)
    for entry in sorted(tree.entries):
        code = _of_python(store.get(entry.blob)) if entry.path.endswith(".py") else bytes.fromhex(entry.blob)
        for part in (entry.path.encode(), b"%o" % entry.mode, code):
            whole.update(len(part).to_bytes(8) + part)
    return whole.hexdigest()


@lru_cache(maxsize=1024)  # most files of a tree are those of the tree before
def _of_python(source: bytes) -> bytes:
    """SHA-256 of the file's tokens, or of its bytes if it cannot be read as tokens."""
    if len(source) > MAX_BYTES:
        return hashlib.sha256(source).digest()
    tokens = hashlib.sha256()
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type in _IGNORED:
                continue
            text = b"" if token.type in _LAYOUT else token.string.encode("utf-8", "surrogatepass")
            tokens.update(b"%d %d " % (token.type, len(text)) + text)
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError, ValueError):
        return hashlib.sha256(source).digest()
    return tokens.digest()
