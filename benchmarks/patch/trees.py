"""Content-addressed trees of `model/**`: what base and candidate are, to the byte.

A tree is a sorted list of (path, mode, blob hash); its hash is taken over exactly that. The blobs are in a store
(`benchmarks.patch.blobs`).
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.patch.blobs import SHA256, BlobStore, TreeError, sha256_hex
from benchmarks.patch.paths import UnsafePathError, check_path

__all__ = [
    "BlobStore",
    "Tree",
    "TreeEntry",
    "TreeError",
    "hash_entries",
    "read_tree",
    "scan_files",
    "sha256_hex",
    "shipped_tree",
    "write_tree",
]

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 5_000
PLAIN, EXECUTABLE = 0o644, 0o755
_SKIPPED_SUFFIXES = (".pyc", ".pyo")


@dataclass(frozen=True, slots=True, order=True)
class TreeEntry:
    """One file: its path in the tree, its mode (0o644 or 0o755) and the SHA-256 of its bytes in hex."""

    path: str
    mode: int
    blob: str


@dataclass(frozen=True)
class Tree:
    """Files sorted by path. Construction refuses anything ambiguous (TreeError)."""

    entries: tuple[TreeEntry, ...]

    def __post_init__(self) -> None:
        _check_entries(self.entries)

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over one line `MODE BLOB PATH` per entry, mode in octal."""
        return hash_entries(self.entries)

    def get(self, path: str) -> TreeEntry | None:
        """The entry at `path`, or None."""
        return self._by_path.get(path)

    @cached_property
    def _by_path(self) -> dict[str, TreeEntry]:
        return {entry.path: entry for entry in self.entries}

    def to_manifest(self) -> dict[str, Any]:
        """A JSON-able form: `{"entries": [{"path", "mode", "blob"}]}`, mode as an integer."""
        return {"entries": [{"path": e.path, "mode": e.mode, "blob": e.blob} for e in self.entries]}

    @classmethod
    def from_manifest(cls, manifest: Any) -> "Tree":
        """Read `to_manifest`'s form; raises TreeError when order, a path, a mode or a hash is not exact."""
        if (
            not isinstance(manifest, dict)
            or set(manifest) != {"entries"}
            or not isinstance(manifest["entries"], list)
        ):
            raise TreeError("bad_manifest", 'A tree manifest is {"entries": [...]} and nothing else.')
        entries = []
        for row in manifest["entries"]:
            if not isinstance(row, dict) or set(row) != {"path", "mode", "blob"}:
                raise TreeError("bad_manifest", "Each manifest entry has exactly path, mode and blob.")
            path, mode, blob = row["path"], row["mode"], row["blob"]
            if not isinstance(path, str) or type(mode) is not int or not isinstance(blob, str):
                raise TreeError(
                    "bad_manifest", "In a manifest path and blob are strings and mode is an integer."
                )
            entries.append(TreeEntry(path, mode, blob))
        return cls(tuple(entries))


def hash_entries(entries: Iterable[TreeEntry]) -> str:
    """The tree hash of entries in the order given."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.mode:o} {entry.blob} {entry.path}\n".encode())
    return digest.hexdigest()


def _check_entries(entries: tuple[TreeEntry, ...]) -> None:
    if len(entries) > MAX_FILES:
        raise TreeError("too_large", f"A tree holds at most {MAX_FILES} files; this one has {len(entries)}.")
    previous = ""
    spellings: dict[str, tuple[str, bool]] = {}  # lower-case path -> (its one spelling, is a file)
    for entry in entries:
        try:
            check_path(entry.path)
        except UnsafePathError as error:
            raise TreeError(error.code, error.message) from None
        if entry.path <= previous:
            raise TreeError(
                "bad_manifest", f"Tree entries must be sorted and distinct; {entry.path} is out of order."
            )
        previous = entry.path
        if entry.mode not in (PLAIN, EXECUTABLE):
            raise TreeError(
                "bad_mode", f"{entry.path} has mode {entry.mode:o}: only 644 and 755 are allowed."
            )
        if not SHA256.fullmatch(entry.blob):
            raise TreeError("bad_manifest", f"{entry.path} has no valid SHA-256 for its content.")
        _check_spellings(entry.path, spellings)


def _check_spellings(path: str, spellings: dict[str, tuple[str, bool]]) -> None:
    """Refuse two spellings of one path (letter case) and a path that is both a file and a folder."""
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        prefix, is_file = "/".join(parts[:end]), end == len(parts)
        seen, seen_is_file = spellings.setdefault(prefix.lower(), (prefix, is_file))
        if seen != prefix:
            raise TreeError(
                "case_collision", f"{prefix} and {seen} differ only in letter case: rename one of them."
            )
        if seen_is_file != is_file:
            raise TreeError(
                "path_conflict", f"{prefix} would be a file and a folder at once: rename one of them."
            )


def scan_files(root: Path, prefix: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield (path, mode, bytes) of every file below `root/prefix`, sorted by path, caches left out.

    Raises TreeError for symlinks, special files, unsafe names and files over MAX_FILE_BYTES.
    """
    top = root / prefix
    if top.is_symlink() or not top.is_dir():
        raise TreeError("missing_folder", f"{prefix}/ is not a plain folder of the given tree.")
    found: list[tuple[str, Path]] = []
    for folder, folders, files in os.walk(top, onerror=_raise):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in [*folders, *files]:
            if (Path(folder) / name).is_symlink():
                raise TreeError("symlink", f"{name} is a symbolic link: a tree holds plain files only.")
        for name in files:
            if not name.endswith(_SKIPPED_SUFFIXES):
                file = Path(folder) / name
                found.append((f"{prefix}/{file.relative_to(top).as_posix()}", file))
    for path, file in sorted(found):
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TreeError("special_file", f"{path} is not a plain file.")
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TreeError(
                "too_large", f"{path} is larger than {MAX_FILE_BYTES} bytes: trees hold source, not data."
            )
        yield path, EXECUTABLE if status.st_mode & 0o100 else PLAIN, data


def _raise(error: OSError) -> None:
    raise error


def read_tree(root: Path, store: BlobStore, *, prefix: str = "model") -> Tree:
    """The tree of `root/prefix/**`, its blobs put into `store`. Raises TreeError (see `scan_files`)."""
    entries = [TreeEntry(path, mode, store.put(data)) for path, mode, data in scan_files(Path(root), prefix)]
    return Tree(tuple(entries))


def write_tree(tree: Tree, store: BlobStore, target: Path) -> None:
    """Materialise `tree` below `target`, which must be empty or absent; files are made read-only.

    Every blob is verified. Folders stay writable for their owner, so that an ordinary user can delete them.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise TreeError("not_empty", f"{target} is not empty: a tree is written into a fresh folder.")
    for entry in tree.entries:
        file = target / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as stream:
            stream.write(store.get(entry.blob))
            os.fchmod(stream.fileno(), entry.mode & ~0o222)


def shipped_tree(store: BlobStore) -> Tree:
    """The tree of the installed stack: the folder of the package `model`, wherever it is installed."""
    import model  # found where Python finds it; its __init__ imports nothing

    if model.__file__ is None:
        raise TreeError("missing_folder", "The package `model` has no folder: install the project first.")
    return read_tree(Path(model.__file__).resolve().parent.parent, store)
