"""Starts one sandbox and steers it: talk through pipes, freeze, thaw, count, kill.

A `Sample` belongs to one judge thread at a time; `kill` may come from any. The judge owns the clock: nothing here
measures time for a verdict.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import IO, BinaryIO, Literal, Self

from benchmarks.sandbox.bubblewrap import OVERHEAD_PIDS, find_bwrap, inner_command, sandbox_options
from benchmarks.sandbox.groups import ProcessGroup
from benchmarks.sandbox.levels import Limits, Mount, SandboxError, SandboxLevel
from benchmarks.sandbox.log_capture import LogCapture
from benchmarks.sandbox.placement import make_group
from benchmarks.sandbox.processes import is_running, send, start_ticks
from benchmarks.sandbox.seccomp import filter_bytes
from benchmarks.sandbox.unconfined import translate

#: Waits for one line on stdin before it becomes the real command: by then it stands in its group, on its cores.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@"', "sandbox")
EXIT_TIMEOUT_S = 10.0

LimitHit = Literal["memory", "pids", "wall"]


class Sample:
    """One running sandbox. `stdin` and `stdout` are raw, unbuffered binary pipes; `pid` is its outermost process.

    Use as a context manager, or `close` it: what it ran, its cgroups and its pipes are gone afterwards.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], group: ProcessGroup, log: LogCapture, limits: Limits
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.pid = process.pid
        self._process = process
        self._group = group
        self._log = log
        self._lock = threading.RLock()
        self._killed: int | None = None
        self._wall_hit = False
        self._timer = threading.Timer(limits.wall_s, self._on_wall)
        self._timer.daemon = True
        self._timer.start()

    @property
    def accounting(self) -> str:
        """What limits and freezes this sandbox: "cgroup-v1", "cgroup-v2" or "polled"."""
        return self._group.kind

    @property
    def returncode(self) -> int | None:
        """None while running. 128 + n when signal n ended the command, as bubblewrap reports it."""
        return self._process.poll()

    def pids(self) -> list[int]:
        """Live processes of the whole tree, as the host numbers them."""
        return self._group.pids()

    def freeze(self) -> None:
        """Returns once no process of the tree can run. Raises SandboxError when that cannot be had."""
        with self._lock:
            if self._killed is None:
                self._group.freeze()

    def thaw(self) -> None:
        with self._lock:
            if self._killed is None:
                self._group.thaw()

    def cpu_ns(self) -> int:
        """User and system time of the whole tree so far, ended processes included, in nanoseconds."""
        with self._lock:
            return self._group.cpu_ns()

    def peak_memory_bytes(self) -> int:
        """Highest total so far. By cgroup this counts page cache that the tree was first to read, too."""
        with self._lock:
            return self._group.peak_memory_bytes()

    def limit_hit(self) -> LimitHit | None:
        """The limit that this sandbox ran into: "memory", "pids" or "wall", else None."""
        with self._lock:
            return "wall" if self._wall_hit else self._group.exhausted()

    def log(self) -> bytes:
        """What was kept of stderr so far: its beginning and its end."""
        return self._log.kept()

    def wait(self, timeout_s: float) -> int:
        """The return code, once the outermost process ended. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def kill(self) -> int:
        """Ends the whole tree and waits until it is gone. Returns how many processes were killed; 0 when repeated."""
        with self._lock:
            if self._killed is not None:
                return 0
            self._killed = self._end_tree()
            return self._killed

    def _end_tree(self) -> int:
        """Kills everything inside first, so that bubblewrap's monitor reaps it, then the monitor.

        A cgroup forgets a process while it is still exiting, so each is waited for by its own number.
        """
        self._timer.cancel()
        killed: dict[int, int | None] = {}  # pid -> start time, which tells a reused number apart
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        patience = time.monotonic() + 1.0
        while True:
            living = set(self._group.pids())
            if self._process.poll() is None:
                living.add(self.pid)
            exiting = [pid for pid, ticks in killed.items() if ticks is not None and is_running(pid, ticks)]
            if not living and not exiting:
                break
            now = time.monotonic()
            if now > deadline:
                raise SandboxError(
                    f"processes {sorted({*living, *exiting})} of a sandbox could not be killed"
                )
            inside = living - {self.pid}
            for pid in inside if inside and now < patience else living:
                killed.setdefault(pid, start_ticks(pid))
                send(pid, signal.SIGKILL)
            self._group.thaw()
            time.sleep(0.001)
        self._process.wait()
        self._group.remove()
        return len(killed)

    def _on_wall(self) -> None:
        if self._process.poll() is None:
            self._wall_hit = True
            self.kill()

    def close(self) -> None:
        """Kills what is left and lets go of pipes and log. Idempotent."""
        self.kill()
        for pipe in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Starter:
    """Starts every sandbox from one thread that lives as long as this process.

    `--die-with-parent` is PR_SET_PDEATHSIG, which fires when the *thread* that forked ends: a sandbox started by a
    short-lived helper thread would die with it.
    """

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._executor = ThreadPoolExecutor(1, "sandbox-start")

    def popen(self, argv: Sequence[str], pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        return self._executor.submit(self._popen, argv, pass_fds).result()

    @staticmethod
    def _popen(argv: Sequence[str], pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(  # the tiny environment is bubblewrap's own: its init's is readable inside
            argv,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={},
            pass_fds=pass_fds,
            start_new_session=True,
        )


_starter = _Starter()


def spawn(
    argv: Sequence[str],
    *,
    level: SandboxLevel,
    mounts: Sequence[Mount],
    limits: Limits,
    env: Mapping[str, str],
    slot: int,
    stderr: BinaryIO | None = None,
) -> Sample:
    """Starts `argv` in a fresh sandbox of `level` and returns at once.

    `env` is the whole environment inside. `slot` (0 to 15) decides the uid as root: live samples of one judge need
    different ones. What is written to stderr inside goes to `stderr`, at most `limits.log_bytes` of it, and is kept
    for `Sample.log`. A sandbox that is not tight enough runs nothing and exits with `inner.REFUSED`.

    Raises:
        SandboxUnavailable: bubblewrap or a system-call filter is missing here.
        SandboxError: it could not be started or placed.
    """
    group = make_group(limits, OVERHEAD_PIDS)
    fds: list[int] = []
    try:
        if level is SandboxLevel.NONE:
            command = translate(argv, mounts, env)
        else:
            for mount in mounts:
                _check(mount, level)
            options = sandbox_options(level=level, mounts=mounts, limits=limits, env=env)
            inner = inner_command(
                argv, level=level, limits=limits, slot=slot, has_cgroup=group.kind != "polled"
            )
            fds += [
                _in_memory(filter_bytes()),
                _in_memory(b"".join(option.encode() + b"\0" for option in options)),
            ]
            command = [str(find_bwrap()), "--seccomp", str(fds[0]), "--args", str(fds[1]), "--", *inner]
        process = _starter.popen([*GATE, *command], fds)
    except BaseException:
        group.remove()
        raise
    finally:
        for fd in fds:
            os.close(fd)
    assert process.stdin is not None and process.stderr is not None
    log = LogCapture(process.stderr, stderr, limits.log_bytes)
    try:
        group.add(process.pid)
        if limits.cores is not None:
            os.sched_setaffinity(process.pid, limits.cores)
    except OSError as error:
        process.kill()
        process.wait()
        group.remove()
        log.close()
        raise SandboxError(f"a sandbox could not be placed: {error}") from error
    sample = Sample(process, group, log, limits)
    with suppress(BrokenPipeError):
        sample.stdin.write(b"go\n")
    return sample


def _check(mount: Mount, level: SandboxLevel) -> None:
    """Says clearly what bubblewrap, or an import inside, would only say obscurely."""
    try:
        mode = mount.source.stat().st_mode
    except OSError as error:
        raise SandboxError(f"{mount.source} cannot be mounted at {mount.target}: {error.strerror}") from error
    needed = 0o005 if stat.S_ISDIR(mode) else 0o004
    if level is SandboxLevel.BUBBLEWRAP and not mount.device and mode & needed != needed:
        raise SandboxError(
            f"{mount.source} cannot be read at {mount.target}: as root a sandbox runs under an unassigned uid. "
            f"Make it readable (chmod -R o+rX)."
        )


def _in_memory(content: bytes) -> int:
    """A descriptor to read `content` from."""
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
