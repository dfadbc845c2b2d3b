"""Runs git on a bare repository: one child, without the platform's environment, under limits, to its end.

Nothing is checked out, and nothing of the repository is run: hooks, attributes, filters, submodules, lazy fetches and
every configuration of the host are off. Arguments never pass a shell.
"""

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MIB = 1024 * 1024
#: Sets the limits, then becomes git. Sizes: -f in blocks of 512 bytes, -v in KiB.
LIMITED = 'ulimit -c 0; ulimit -t "$1"; ulimit -f "$2"; ulimit -v "$3"; shift 3; exec "$@"'
OFF = (
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.fsmonitor=false",
    "core.alternateRefsCommand=false",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "protocol.allow=never",
)
POLL_S = 0.05
MESSAGE_CHARACTERS = 300
WROTE_TOO_MUCH = (b"File too large", b"died of signal 25")  # at the limit of a file's size


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one git command. `repository_bytes` bounds the whole folder, `file_bytes` each file and the output."""

    wall_s: float = 180.0
    cpu_s: int = 120
    repository_bytes: int = 512 * MIB
    file_bytes: int = 512 * MIB
    memory_bytes: int = 4096 * MIB


class GitError(Exception):
    """Git could not do it. The message says why and what to do, and nothing of it is markup."""


class LimitReached(GitError):
    """The command was ended at one of its limits."""


class Missing(GitError):
    """The repository, the branch or an object of it is not there."""


@dataclass(frozen=True)
class Git:
    """Git on the bare repository `folder`, which may speak `protocols`."""

    folder: Path
    protocols: tuple[str, ...] = ()
    limits: Limits = Limits()

    def run(self, *arguments: str, given: bytes = b"", allowed: Sequence[int] = (0,)) -> tuple[int, bytes]:
        """Exit status, one of `allowed`, and standard output. Raises GitError, LimitReached."""
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as fed,
        ):
            fed.write(given)
            fed.seek(0)
            status = self._run(self._command(arguments), fed, out, err)
            if status not in allowed:
                raise GitError(_last_words(err))
            out.seek(0)
            return status, out.read()

    def _command(self, arguments: Sequence[str]) -> list[str]:
        limits = self.limits
        numbers = (
            limits.cpu_s,
            min(limits.file_bytes, limits.repository_bytes) // 512,
            limits.memory_bytes // 1024,
        )
        spoken = [f"protocol.{name}.allow=always" for name in self.protocols]
        options = [word for setting in (*OFF, *spoken) for word in ("-c", setting)]
        git = ["git", *options, f"--git-dir={self.folder}", *arguments]
        return ["/bin/sh", "-c", LIMITED, "git", *map(str, numbers), *git]

    def _run(self, command: list[str], fed: IO[bytes], out: IO[bytes], err: IO[bytes]) -> int:
        deadline = time.monotonic() + self.limits.wall_s
        child = subprocess.Popen(
            command,
            stdin=fed,
            stdout=out,
            stderr=err,
            env=self._environment(),
            cwd=self.folder.parent,
            start_new_session=True,
        )
        try:
            while not _ends_within(child, POLL_S):
                self._check(deadline)
        finally:
            status = _end(child)
        return self._ended(status, err)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": ":".join(self.protocols) or "none",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise LimitReached(f"It took longer than {self.limits.wall_s:g} seconds.")
        if self.is_too_large():
            raise LimitReached(self._too_large())

    def _ended(self, status: int, err: IO[bytes]) -> int:
        if status == -signal.SIGXCPU or status == 128 + signal.SIGXCPU:
            raise LimitReached(f"It used more than {self.limits.cpu_s} seconds of processor time.")
        if status != 0 and self.is_too_large():
            raise LimitReached(self._too_large())
        if status == -signal.SIGXFSZ or (status != 0 and any(word in _text(err) for word in WROTE_TOO_MUCH)):
            raise LimitReached(
                f"Git wrote more than {min(self.limits.file_bytes, self.limits.repository_bytes) // MIB} MiB."
            )
        return status

    def is_too_large(self) -> bool:
        """Whether the repository takes more room than its limit."""
        return folder_bytes(self.folder) > self.limits.repository_bytes

    def _too_large(self) -> str:
        return f"The repository has more than {self.limits.repository_bytes // MIB} MiB."


def folder_bytes(folder: Path) -> int:
    """Bytes of every file below the folder; files that vanish meanwhile count as nothing."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(here, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the child ends in so much time. Wakes up at once, where `wait` with a timeout sleeps in steps."""
    ending = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(ending)


def _end(child: subprocess.Popen[bytes]) -> int:
    """End the child with everything that it started, and reap it; its status.

    The group is killed first: once the child is reaped, its number may be another process group's.
    """
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _text(err: IO[bytes]) -> bytes:
    err.seek(0)
    return err.read(64 * 1024)


def _last_words(err: IO[bytes]) -> str:
    """What git said last, in printable characters."""
    lines = [line for line in _text(err).decode("utf-8", "replace").splitlines() if line.strip()]
    said = "".join(c if c.isascii() and c.isprintable() else "?" for c in lines[-1] if lines) if lines else ""
    return f"Git said: {said[:MESSAGE_CHARACTERS]}" if said else "Git failed and said nothing."
