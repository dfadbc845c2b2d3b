"""Blobs: file contents, diffs and evidence in a folder of files that are named by their SHA-256."""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.patch.paths import Refusal

SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".put-"  # beginning of the name of a blob that is being written


class TreeError(Refusal):
    """A tree, manifest or blob that cannot be trusted. `code` names the rule, the message what to do."""


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex: how blobs are named."""
    return hashlib.sha256(data).hexdigest()


class BlobStore:
    """A folder of content-addressed files. Writes are atomic, reads are verified, equal puts are one file.

    A file's modification time says when its blob was last put. A lock on the folder (shared by puts, exclusive for a
    removal) keeps a removal from taking what was just put again.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Path of the blob with that name, stored or not."""
        if not SHA256.fullmatch(sha256):
            raise TreeError("bad_blob_name", "A blob is named by 64 lower-case hex digits.")
        return self.root / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """True if the blob is stored (its bytes are verified when read)."""
        return self.path(sha256).is_file()

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its SHA-256; a damaged earlier copy is replaced."""
        name = sha256_hex(data)
        target = self.path(name)
        with self._locked(fcntl.LOCK_SH):
            if not _renewed(target, data):
                self._write(target, data)
        return name

    def _write(self, target: Path, data: bytes) -> None:
        target.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_UNFINISHED)
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

    def put_before(self, moment: float) -> list[str]:
        """The names of all blobs that were last put before `moment` (seconds since the epoch)."""
        files = self.root.glob("[0-9a-f][0-9a-f]/*")
        return [
            name
            for file in files
            if SHA256.fullmatch(name := file.parent.name + file.name) and _is_older(file, moment)
        ]

    def remove(self, sha256: str, *, put_before: float) -> bool:
        """Remove a blob unless it was put since; return whether it was removed."""
        return self._remove(self.path(sha256), put_before)

    def remove_unfinished(self, *, put_before: float) -> None:
        """Remove what a killed `put` left behind before that moment."""
        for file in self.root.glob(f"[0-9a-f][0-9a-f]/{_UNFINISHED}*"):
            self._remove(file, put_before)

    def _remove(self, file: Path, moment: float) -> bool:
        with self._locked(fcntl.LOCK_EX):
            if not _is_older(file, moment):
                return False
            file.unlink()
            return True

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

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


def _renewed(file: Path, data: bytes) -> bool:
    """Set the time of a stored blob to now; False if it is missing, damaged or another user's."""
    try:
        if file.read_bytes() != data:
            return False
        os.utime(file)
    except OSError:
        return False
    return True


def _is_older(file: Path, moment: float) -> bool:
    try:
        return file.stat().st_mtime < moment
    except FileNotFoundError:
        return False
