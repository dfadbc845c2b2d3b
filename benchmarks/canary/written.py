"""Files that a node wrote, searched for planted words: its state on this machine and its scratch folders inside.

The node's user owns these folders: no link is followed, nothing but plain files is opened, and what is too much to be
searched is reported as such. Call it while the node is frozen, so that nothing moves meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

from benchmarks.canary.planted import Secret

SCRATCH = ("tmp", "work", "dev/shm")
CODE = "node/code"  # only a process inside has it
MOST_BYTES = 256 << 20  # written since the words were planted, all files together
MOST_FILES = 10_000
CHUNK_BYTES = 8 << 20
OVERLAP_BYTES = 4_096  # more than any form of a word has
NOTING = frozenset({0xEF53, 0x58465342, 0x9123683E})  # ext2 to ext4, XFS, Btrfs: their numbers in statfs(2)
BLOCK_BYTES = 512  # the unit of `st_blocks`
STATFS_BYTES = 512  # more than `struct statfs` has anywhere; it begins with that number
_LIBC = ctypes.CDLL(None, use_errno=True)


class TooMuch(Exception):
    """More than can be searched; the message says what."""


@dataclass(frozen=True)
class State:
    """What says of a file's content whether it was written in between: equal ones were not.

    Its status does where the file system notes every change. One in memory does not note what is stored through a map
    (tmpfs never writes pages back), so there the content's digest is part of the state.
    """

    device: int
    inode: int
    size: int
    changed_ns: int
    digest: str = ""

    @classmethod
    def of(cls, stream: BufferedReader) -> State | None:
        """The state with dirty pages written: what is stored through a map later changes it again.

        None where only reading tells and there is more to read than is stored: a file with holes can have any size.
        """
        os.fsync(stream.fileno())
        status = os.fstat(stream.fileno())
        state = cls(status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
        if notes_stores(stream.fileno()):
            return state
        if status.st_size > status.st_blocks * BLOCK_BYTES:
            return None
        digest = hashlib.file_digest(stream, "blake2b").hexdigest()
        stream.seek(0)
        return replace(state, digest=digest)


def notes_stores(handle: int) -> bool:
    """Whether the file's file system changes its times for stores through a map too, once they are written (statfs(2))."""
    answer = ctypes.create_string_buffer(STATFS_BYTES)
    if _LIBC.fstatfs(handle, answer) != 0:
        return False
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF in NOTING


def plain_files(folders: Iterable[Path]) -> Iterator[Path]:
    """All plain files below; what cannot be read is passed over, as a folder of another user's. Raises TooMuch."""
    seen = 0
    for top in folders:
        for folder, _, names in os.walk(top):
            seen += len(names) + 1
            if seen > MOST_FILES:
                raise TooMuch(f"more than {MOST_FILES} files")
            for name in names:
                path = Path(folder) / name
                with suppress(OSError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        yield path


def names_below(folders: Iterable[Path]) -> Iterator[str]:
    """Names of everything below: files, folders, links with their targets."""
    for top in folders:
        for folder, inner, names in os.walk(top):
            for name in (*inner, *names):
                yield name
                with suppress(OSError):
                    yield str((Path(folder) / name).readlink())


def states_of(folders: Iterable[Path]) -> dict[Path, State]:
    """The state of each file."""
    found = {}
    for path in plain_files(folders):
        with suppress(OSError), os.fdopen(_opened(path), "rb") as stream:
            if (state := State.of(stream)) is not None:
                found[path] = state
    return found


def search(folders: Iterable[Path], secrets: Iterable[Secret], known: dict[Path, State]) -> str | None:
    """The first file, by its name only, that holds a planted word; files as they are `known` are passed over.

    Raises TooMuch.
    """
    folders, secrets = list(folders), list(secrets)
    left = MOST_BYTES
    for name in names_below(folders):
        if any(secret.found_in(os.fsencode(name)) for secret in secrets):
            return "the name of a file"
    for path in plain_files(folders):
        try:
            handle = _opened(path)
        except OSError:
            continue  # gone, or no plain file any more
        with os.fdopen(handle, "rb") as stream:
            is_plain = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            if not is_plain or (path in known and known[path] == State.of(stream)):
                continue
            before = b""
            while chunk := stream.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise TooMuch(f"it wrote more than {MOST_BYTES >> 20} MiB after the words were planted")
                if any(secret.found_in(before + chunk) for secret in secrets):
                    return path.name
                before = chunk[-OVERLAP_BYTES:]
    return None


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def scratch_folders(pids: Iterable[int]) -> list[Path]:
    """The scratch folders inside a sandbox, as a process of it sees them; none where this user may not look."""
    for pid in pids:
        root = Path("/proc", str(pid), "root")
        with suppress(OSError):
            if (root / CODE).is_dir():
                return [root / name for name in SCRATCH]
    return []
