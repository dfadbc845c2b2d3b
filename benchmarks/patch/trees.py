"""Content-addressed trees of `model/**`: what base and candidate are, to the byte.

A tree is a sorted list of (path, mode, blob hash); its hash is taken over exactly that. Blobs live in a folder of files
named by their SHA-256.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.patch.paths import Refusal, UnsafePathError, check_path

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 5_000
PLAIN, EXECUTABLE = 0o644, 0o755
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SKIPPED_SUFFIXES = (".pyc", ".pyo")


class TreeError(Refusal):
    """A tree, manifest or blob that cannot be trusted. `code` names the rule, the message what to do."""


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


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex: how blobs are named."""
    return hashlib.sha256(data).hexdigest()


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
        if not _SHA256.fullmatch(entry.blob):
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


class BlobStore:
    """A folder of content-addressed files. Writes are atomic, reads are verified, equal puts are one file."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Path of the blob with that name, stored or not."""
        if not _SHA256.fullmatch(sha256):
            raise TreeError("bad_blob_name", "A blob is named by 64 lower-case hex digits.")
        return self.root / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """True if the blob is stored (its bytes are verified when read)."""
        return self.path(sha256).is_file()

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its SHA-256; a damaged earlier copy is replaced."""
        name = sha256_hex(data)
        target = self.path(name)
        try:
            if target.read_bytes() == data:
                return name
        except OSError:
            pass
        target.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".put-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o444)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return name

    def get(self, sha256: str) -> bytes:
        """The blob's bytes; raises TreeError `missing_blob` or `damaged_blob`."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise TreeError("missing_blob", f"Blob {sha256} is not in this store: fetch it first.") from None
        if sha256_hex(data) != sha256:
            raise TreeError(
                "damaged_blob", f"Blob {sha256} is damaged on disk: delete the file and fetch it again."
            )
        return data


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
