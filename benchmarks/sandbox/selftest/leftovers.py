"""Lets a sandbox leave traps in a writable mount, then reads its results as a judge would."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.sandbox.artefacts import read_artefact
from benchmarks.sandbox.isolation.identity import sandbox_uid
from benchmarks.sandbox.levels import MIB, Limits, Mount, SandboxError, SandboxLevel
from benchmarks.sandbox.once import run
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.targets import PROBE_TARGET, Stage

RESULTS_TARGET = "/results"
TIMEOUT_S = 10.0
TRAPS = ("link", "folder-link/secret", "up/secret", "folder", "pipe", "second-name", "socket", "huge")


def attack_results(level: SandboxLevel, stage: Stage) -> list[Attack]:
    """One attack: every trap must be refused, the honest file next to them must be read."""
    python = python_runtime(path=[PROBE_TARGET])
    with tempfile.TemporaryDirectory(prefix="gainshare-results-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, sandbox_uid(0), sandbox_uid(0))
        completed = run(
            [*python.argv, "-m", "attacks.result_files", RESULTS_TARGET, stage.facts["secret_file"]],
            level=level,
            mounts=[*python.mounts, stage.mount, Mount(folder, RESULTS_TARGET, writable=True)],
            limits=Limits(wall_s=TIMEOUT_S),
            env=python.env,
            slot=0,
            timeout_s=TIMEOUT_S,
            output_limit_bytes=MIB,
        )
        if completed.stdout != b"left\n":
            return [Attack("results.traps", False, f"the traps were not set: {completed.stderr_tail[-300:]}")]
        read = [trap for trap in TRAPS if _is_read(folder, trap)]
        honest = _is_read(folder, "honest")
    detail = f"read through {', '.join(read)}" if read else f"{len(TRAPS)} traps refused, an honest file read"
    return [
        Attack("results.traps", honest and not read, detail if honest else "not even an honest file was read")
    ]


def _is_read(folder: Path, name: str) -> bool:
    try:
        read_artefact(folder, name, limit_bytes=MIB)
    except SandboxError:
        return False
    return True
