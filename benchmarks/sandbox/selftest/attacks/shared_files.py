"""Tries to use files that several sandboxes see as a channel or a brake: locks, watches, the page cache, the disk."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .attempt import Targets, attack, call, first_that_works, main

F_OFD_GETLK, F_OFD_SETLK = 36, 37
F_NOTIFY, DN_ACCESS, DN_MULTISHOT = 1026, 1, 0x80000000 - (1 << 32)
WHOLE_FILE = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
#: Asks who is in the way of a write lock. That needs no right to write, and sees the read locks of others.
ANY_LOCK = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
MADV_COLD, MADV_PAGEOUT = 20, 21
PAGE = mmap.PAGESIZE


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _shared(targets: Targets) -> list[str]:
    return [
        *targets["mounted_files"],
        *targets["mounted_folders"],
        "/usr/bin/env",
        "/usr",
        "/etc/ld.so.cache",
    ]


def _on_each(targets: Targets, act: Callable[[int], object]) -> str | None:
    """Collect what works of `act(descriptor)` on everything that is mounted."""

    def attempt(path: str) -> None:
        with _opened(path) as fd:
            act(fd)

    return first_that_works({path: partial(attempt, path) for path in _shared(targets)})


@attack
def whole_file_locks(targets: Targets) -> str | None:
    """flock(2) works on anything that can be opened for reading, folders too: one sandbox could stop another."""
    return _on_each(targets, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


@attack
def record_locks(targets: Targets) -> str | None:
    """A read lock needs no right to write; every process that asks for it sees it. That is a channel between two sandboxes."""
    return _on_each(
        targets,
        lambda fd: fcntl.fcntl(fd, fcntl.F_SETLK, WHOLE_FILE) and fcntl.fcntl(fd, fcntl.F_GETLK, ANY_LOCK),
    )


@attack
def asking_for_locks(targets: Targets) -> str | None:
    return _on_each(targets, lambda fd: fcntl.fcntl(fd, fcntl.F_GETLK, ANY_LOCK))


@attack
def open_file_locks(targets: Targets) -> str | None:
    return _on_each(targets, lambda fd: fcntl.fcntl(fd, F_OFD_SETLK, WHOLE_FILE)) or _on_each(
        targets, lambda fd: fcntl.fcntl(fd, F_OFD_GETLK, ANY_LOCK)
    )


@attack
def leases(targets: Targets) -> str | None:
    """A lease delays every process that opens the file for writing, and tells its holder of it."""
    path = Path(targets["scratch"], targets["token"])
    path.touch()

    def on_own_file() -> None:
        with _opened(str(path)) as fd:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)

    try:
        on_shared = _on_each(targets, lambda fd: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK))
        return on_shared or first_that_works({"a file of our own": on_own_file})
    finally:
        path.unlink()


@attack
def watch_by_inotify(targets: Targets) -> str | None:
    """Learns when others open a file."""
    descriptor = call(targets, "inotify_init1", 0)
    with contextlib.closing(os.fdopen(descriptor)):
        return "watching"


@attack
def watch_by_dnotify(targets: Targets) -> str | None:
    """The older way, an fcntl on a folder."""
    return _on_each(targets, lambda fd: fcntl.fcntl(fd, F_NOTIFY, DN_ACCESS | DN_MULTISHOT))


@attack
def watch_by_fanotify(targets: Targets) -> str | None:
    return f"descriptor {call(targets, 'fanotify_init', 0x200, 0)}"  # FAN_REPORT_FID: the kind users may have


@attack
def page_cache_statistics(targets: Targets) -> str | None:
    """cachestat(2) tells which pages of a file others have read."""
    with _opened(targets["ballast"]) as fd:
        call(targets, "cachestat", fd, struct.pack("QQ", 0, 0), ctypes.create_string_buffer(40), 0)
    return "told"


@attack
def throw_out_of_page_cache(targets: Targets) -> str | None:
    """The next reader of the file would wait for the disk. Judged from outside, as `host.page_cache`: some of these
    calls only pretend to work.
    """
    size = Path(targets["ballast"]).stat().st_size
    with _opened(targets["ballast"]) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
            sum(view[offset] for offset in range(0, size, PAGE))
            for advice in (MADV_COLD, MADV_PAGEOUT):
                with contextlib.suppress(OSError):  # unknown to old kernels
                    view.madvise(advice)
    return None


@attack
def replace_mounted_files(targets: Targets) -> str | None:
    """Everything that would change a mounted file without opening it for writing."""
    own = Path(targets["scratch"], targets["token"])
    own.write_text("replaced")
    try:
        attempts: dict[str, Callable[[], object]] = {}
        for path in targets["mounted_files"]:
            attempts |= {
                f"unlink {path}": partial(os.unlink, path),
                f"rename over {path}": partial(os.rename, own, path),
                f"rename {path}": partial(os.rename, path, path + "-"),
                f"chmod {path}": partial(os.chmod, path, 0o777),
                f"utime {path}": partial(os.utime, path),
                f"truncate {path}": partial(os.truncate, path, 0),
                f"setxattr {path}": partial(os.setxattr, path, "user.gainshare", b"x"),
                f"link beside {path}": partial(os.link, path, path + "-"),
                f"reopen {path}": partial(_reopen_for_writing, path),
            }
        return first_that_works(attempts)
    finally:
        own.unlink(missing_ok=True)


def _reopen_for_writing(path: str) -> None:
    """Reopen through the descriptor's link in /proc, which needs no name."""
    with _opened(path) as fd:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))


if __name__ == "__main__":
    main()
