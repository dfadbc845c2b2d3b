"""Two live samples: one searches for the other. Seen from the host, they must differ in identity too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.sandbox.levels import Limits, SandboxLevel
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.sample import Sample
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.targets import PROBE_TARGET, Stage
from benchmarks.sandbox.starting import spawn

TIMEOUT_S = 20.0


def _start(level: SandboxLevel, stage: Stage, slot: int, **order: Any) -> Sample:
    """The token also is in its environment, where the other looks for it."""
    python = python_runtime(path=[PROBE_TARGET])
    env = {**python.env, "TOKEN": stage.token} if order["role"] == "quiet" else python.env
    sample = spawn(
        [*python.argv, "-m", "attacks.neighbour"],
        level=level,
        mounts=[*python.mounts, stage.mount],
        limits=Limits(wall_s=TIMEOUT_S),
        env=env,
        slot=slot,
    )
    sample.stdin.write(json.dumps(order).encode() + b"\n")
    return sample


def _read_line(sample: Sample) -> bytes:
    """Read up to a newline or the end, byte by byte: the pipe is unbuffered and the lines are short."""
    line = bytearray()
    while not line.endswith(b"\n") and (byte := sample.stdout.read(1)):
        line += byte
    return bytes(line)


def attack_neighbour(level: SandboxLevel, stage: Stage) -> list[Attack]:
    """Starts the quiet one, then the hunter, and asks the quiet one afterwards whether it still lives."""
    token = stage.token
    with _start(level, stage, 0, role="quiet", token=token) as quiet:
        ready = _read_line(quiet)
        if not ready:
            return [Attack("neighbour", False, f"the quiet sample did not start: {quiet.log()!r}")]
        pids = quiet.pids()
        port = json.loads(ready)["port"]
        with _start(level, stage, 1, role="hunter", token=token, pids=pids, port=port) as hunter:
            same = _shared_identity(pids, hunter.pids())
            answer = _read_line(hunter)
            found = json.loads(answer) if answer else [f"no report: {hunter.log()!r}"]
        quiet.stdin.write(b".")
        survived = _read_line(quiet) == b"alive\n"
    return [
        Attack("neighbour.identity", not same, ", ".join(same) or "nothing is shared between two samples"),
        Attack("neighbour.visible", not found, ", ".join(found) or "no trace of the other sample was found"),
        Attack("neighbour.survives", survived, "alive" if survived else "the other sample was ended"),
    ]


def _shared_identity(first: list[int], second: list[int]) -> list[str]:
    """Namespaces and, as root, uids that the commands of two samples have in common. The last pid is the command's."""
    kinds = ["pid", "net", "mnt", "ipc", "uts"]
    if os.geteuid() != 0:
        kinds.append("user")
    shared = [
        f"{kind} namespace"
        for kind in kinds
        if Path(f"/proc/{first[-1]}/ns/{kind}").readlink() == Path(f"/proc/{second[-1]}/ns/{kind}").readlink()
    ]
    if os.geteuid() == 0 and _uids(first[-1]) & _uids(second[-1]):
        shared.append("uid")
    return shared


def _uids(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("Uid:")).split()[1:])
