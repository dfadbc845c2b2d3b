"""Starts one sandbox of any level: gathers what it may hold, places it in its group, lets it go."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from benchmarks.sandbox.accounting.groups import ProcessGroup
from benchmarks.sandbox.accounting.placement import make_group
from benchmarks.sandbox.isolation.bubblewrap import bubblewrap_command
from benchmarks.sandbox.isolation.container import container_command, make_bundle_folder
from benchmarks.sandbox.isolation.inner import SOCKET_FD
from benchmarks.sandbox.isolation.interior import OVERHEAD_PIDS, Interior
from benchmarks.sandbox.isolation.unconfined import translate
from benchmarks.sandbox.levels import SOCKET_VARIABLE, Limits, Mount, SandboxError, SandboxLevel
from benchmarks.sandbox.log_capture import LogCapture
from benchmarks.sandbox.sample import Sample

#: Waits for one line on stdin before it becomes the real command: by then it is in its group, on its cores.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@"', "sandbox")


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
    has_socket: bool = False,
    uid_of: int | None = None,
) -> Sample:
    """Starts `argv` in a fresh sandbox of `level` and returns at once.

    `env` is the whole environment inside. `slot` (0 to 15) decides the uid as root: live samples of one judge need
    different ones. `uid_of` takes that slot's uid of another process, 0 for one that is the same at each start (its
    slots are 0 to 63). What is written to stderr inside goes to `stderr`, at most `limits.log_bytes` of it, and is kept
    for `Sample.log`. A sandbox that is not tight enough runs nothing and exits with `inner.REFUSED`.

    The sample holds exactly its three pipes. With `has_socket` it inherits one more descriptor, the end of a unix
    SOCK_SEQPACKET pair: SANDBOX_SOCKET_FD in its environment says which, ours is `Sample.socket`. It is one-way: the
    sample cannot send through it.

    Raises:
        SandboxUnavailable: what this level needs, or a system-call filter, is missing here.
        SandboxError: it could not be started or placed.
    """
    with ExitStack() as starting, ExitStack() as failing:
        ours, its = _one_way_pair(failing, starting) if has_socket else (None, None)
        group = make_group(limits, OVERHEAD_PIDS)
        failing.callback(group.remove)
        if its is not None:
            env = {**env, SOCKET_VARIABLE: str(its if level is SandboxLevel.NONE else SOCKET_FD)}
        inside = Interior(argv, mounts, limits, env, slot, group.kind != "polled", its, uid_of)
        command, fds, leftovers = _prepare(inside, level, failing, starting)
        process = _starter.popen([*GATE, *command], fds if its is None else [*fds, its])
        assert process.stdin is not None and process.stderr is not None
        log = LogCapture(process.stderr, stderr, limits.log_bytes)
        failing.callback(log.close)
        failing.callback(process.wait)
        failing.callback(process.kill)
        _place(process.pid, group, limits)
        sample = Sample(process, group, log, limits, ours, leftovers)
        failing.pop_all()  # from here on they are the sample's
    with suppress(BrokenPipeError):
        sample.stdin.write(b"go\n")
    return sample


def _prepare(
    inside: Interior, level: SandboxLevel, failing: ExitStack, starting: ExitStack
) -> tuple[Sequence[str], list[int], list[Path]]:
    """The command that makes the sandbox, the descriptors that it inherits, the folders that it needs while it runs."""
    if level is SandboxLevel.NONE:
        return translate(inside.argv, inside.mounts, inside.env), [], []
    for mount in inside.mounts:
        _check(mount)
    if level is SandboxLevel.CONTAINER:
        bundle = make_bundle_folder()
        failing.callback(shutil.rmtree, bundle, ignore_errors=True)
        return container_command(inside, bundle), [], [bundle]
    command, fds = bubblewrap_command(inside, level)
    for fd in fds:
        starting.callback(os.close, fd)
    return command, fds, []


def _place(pid: int, group: ProcessGroup, limits: Limits) -> None:
    """Into its group and onto its cores, while it still waits at the gate. Raises SandboxError."""
    try:
        group.add(pid)
        _forbid_core_dumps(pid)
        if limits.cores is not None:
            os.sched_setaffinity(pid, limits.cores if limits.first_core is None else {limits.first_core})
    except OSError as error:
        raise SandboxError(f"a sandbox could not be placed: {error}") from error


def _forbid_core_dumps(pid: int) -> None:
    """A limit of 1 is the only one at which the kernel does not even call the host's core handler (core(5))."""
    hard = resource.prlimit(pid, resource.RLIMIT_CORE)[1]
    if hard != 0 or os.geteuid() == 0:
        resource.prlimit(pid, resource.RLIMIT_CORE, (1, 1))


def _one_way_pair(failing: ExitStack, starting: ExitStack) -> tuple[socket.socket, int]:
    """Our end, and the number of the sample's, which is closed here once the sample has it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    failing.callback(ours.close)
    starting.callback(its.close)
    ours.shutdown(socket.SHUT_RD)  # every sender to it gets EPIPE: descriptors of the sample's never reach us
    return ours, its.fileno()


def _check(mount: Mount) -> None:
    """Says clearly what bubblewrap, or an import inside, would only say obscurely."""
    try:
        mode = mount.source.stat().st_mode
    except OSError as error:
        raise SandboxError(f"{mount.source} cannot be mounted at {mount.target}: {error.strerror}") from error
    needed = 0o005 if stat.S_ISDIR(mode) else 0o004
    if os.geteuid() == 0 and not mount.device and mode & needed != needed:
        raise SandboxError(
            f"{mount.source} cannot be read at {mount.target}: as root a sandbox runs under an unassigned uid. "
            f"Make it readable (chmod -R o+rX)."
        )
