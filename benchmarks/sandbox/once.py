"""Runs one command in a sandbox to its end: builds, probes, attacks. Nothing timed for a verdict goes through here."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.judging.cancellation import Cancellation
from benchmarks.sandbox.levels import Limits, Mount, SandboxLevel
from benchmarks.sandbox.readable import readable
from benchmarks.sandbox.sample import LimitHit, Sample
from benchmarks.sandbox.starting import spawn

CHUNK_BYTES = 65536


@dataclass(frozen=True)
class Completed:
    """Result of a command. `limit` names the limit that it reached; `timed_out` is the clock alone, `resource_limited` no time.

    `stderr_tail` is the bounded log: its beginning and its end, safe to print.
    """

    returncode: int
    stdout: bytes
    stderr_tail: str
    timed_out: bool
    limit: LimitHit | Literal["output"] | None
    cpu_ns: int
    peak_memory_bytes: int

    @property
    def resource_limited(self) -> bool:
        return self.limit in ("memory", "pids", "output")


def run(
    argv: Sequence[str],
    *,
    level: SandboxLevel,
    mounts: Sequence[Mount],
    limits: Limits,
    env: Mapping[str, str],
    slot: int,
    input: bytes = b"",  # noqa: A002 - named as in subprocess.run
    timeout_s: float,
    output_limit_bytes: int,
    cancellation: Cancellation | None = None,
) -> Completed:
    """Feeds `input`, collects stdout up to `output_limit_bytes`, then ends the whole tree, however it went.

    Raises Cancelled where `cancellation` ended it, or was set before it began.
    """
    cancellation = cancellation or Cancellation()
    cancellation.check()
    deadline = time.monotonic() + timeout_s
    with (
        spawn(argv, level=level, mounts=mounts, limits=limits, env=env, slot=slot) as sample,
        cancellation.ends(sample.kill),
    ):
        stdout, stopped = _exchange(sample, input, deadline, output_limit_bytes)
        if stopped is None:
            try:
                sample.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # stdout was closed, the work continues
                stopped = "wall"
        sample.kill()
        returncode = sample.returncode
    cancellation.check()  # what ends because we killed it has not failed
    assert returncode is not None
    limit = stopped or sample.limit_hit()
    return Completed(
        returncode=returncode,
        stdout=stdout,
        stderr_tail=readable(sample.log().decode(errors="replace")),
        timed_out=limit == "wall",
        limit=limit,
        cpu_ns=sample.cpu_ns(),
        peak_memory_bytes=sample.peak_memory_bytes(),
    )


def _exchange(
    sample: Sample, data: bytes, deadline: float, output_limit: int
) -> tuple[bytes, Literal["wall", "output"] | None]:
    """Writes and reads side by side until stdout ends. The second value says why it was cut short, if it was."""
    output = bytearray()
    stdin, stdout = sample.stdin.fileno(), sample.stdout.fileno()
    os.set_blocking(stdin, False)
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        if data:
            selector.register(stdin, selectors.EVENT_WRITE)
        else:
            sample.stdin.close()
        view = memoryview(data)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return bytes(output), "wall"
            for key, _ in selector.select(remaining):
                if key.fd == stdin:
                    view = _write_some(stdin, view)
                    if not view:
                        selector.unregister(stdin)
                        sample.stdin.close()
                    continue
                chunk = os.read(stdout, CHUNK_BYTES)
                if not chunk:
                    return bytes(output), None
                output += chunk
                if len(output) > output_limit:
                    return bytes(output[:output_limit]), "output"


def _write_some(fd: int, view: memoryview) -> memoryview:
    """Write some of the data and return the rest; nothing once the reader is gone."""
    try:
        return view[os.write(fd, view) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return view[:0]
