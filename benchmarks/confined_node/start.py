"""Starts a node in a sandbox: what it sees, what it may use up, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.confined_node.folders import (
    KERNELS,
    NODE_PID,
    PACKED,
    SOCKET,
    TOKEN,
    NodeFolders,
    node_slot,
)
from benchmarks.sandbox import Limits, Mount, Sample, SandboxLevel, python_runtime, spawn
from benchmarks.sandbox.devices import CPU, device_mounts
from benchmarks.sandbox.levels import GIB

CODE_TARGET, HOME_TARGET, RUN_TARGET = "/node/code", "/node/home", "/node/run"
FOR_EVER_S = 10 * 365 * 86_400.0
PROCESSES = 1024  # and threads: torch makes a pool per kind of work
SCRATCH_BYTES = GIB  # of each of /tmp, /dev/shm and /work
#: Both outputs of the node arrive on one pipe, and its stdin tells it when to end.
BOTH_OUTPUTS = ("/bin/sh", "-c", 'exec "$@" 2>&1', "node")
PASSED = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GAINSHARE_MODEL_FP32")


@dataclass(frozen=True)
class NodeOrder:
    """`arguments` are the node's own, but not where it listens. `readable` are folders that it reads, at their own paths.

    `models` is the local store of models, seen inside as the store of its home. `device` is what it may compute on.
    `seat` tells the nodes of one machine apart. `cores` are those that it may use, None for all; `first_core` is the one
    that it begins on and keeps to until it is moved from outside.
    """

    folders: NodeFolders
    level: SandboxLevel
    arguments: Sequence[str]
    memory_bytes: int
    models: Path | None = None
    readable: Sequence[Path] = ()
    device: str = CPU
    seat: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] | None = None
    first_core: int | None = None


def start(order: NodeOrder) -> Sample:
    """Start the node and return at once. It ends as by SIGTERM when its stdin is closed.

    Raises:
        SandboxUnavailable, SandboxError: no sandbox of that level can be started here.
    """
    python = python_runtime(path=[CODE_TARGET])
    env = {name: value for name, value in python.env.items() if not name.endswith("_NUM_THREADS")}
    env |= {name: order.env[name] for name in PASSED if name in order.env}
    env |= {"GAINSHARE_HOME": HOME_TARGET, "PYTHONUNBUFFERED": "1"}
    where = ["--socket", f"{RUN_TARGET}/{SOCKET}", "--end-with-stdin"]
    token = ["--token-file", f"{RUN_TARGET}/{TOKEN}"] if (order.folders.run / TOKEN).exists() else []
    command = [*python.argv, "-m", "model.serving.node", *order.arguments, *where, *token]
    return spawn(
        [*BOTH_OUTPUTS, *command],
        level=order.level,
        mounts=[*python.mounts, *_mounts(order)],
        limits=Limits(
            memory_bytes=order.memory_bytes,
            pids=PROCESSES,
            scratch_bytes=min(SCRATCH_BYTES, order.memory_bytes),
            file_bytes=order.memory_bytes,
            wall_s=FOR_EVER_S,
            cores=order.cores,
            first_core=order.first_core,
        ),
        env=env,
        slot=node_slot(order.seat),
        uid_of=NODE_PID,
    )


def _mounts(order: NodeOrder) -> list[Mount]:
    mounts = [
        Mount(order.folders.code, CODE_TARGET),
        *(
            Mount(order.folders.state / name, f"{HOME_TARGET}/{name}", writable=True)
            for name in (KERNELS, PACKED)
        ),
        Mount(order.folders.run, RUN_TARGET, writable=True),
    ]
    if order.models is not None and order.models.is_dir():
        mounts.append(Mount(order.models, f"{HOME_TARGET}/models"))
    return [*mounts, *(Mount(folder, str(folder)) for folder in order.readable), *device_mounts(order.device)]
