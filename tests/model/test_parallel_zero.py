"""DeepSpeed's engine over the data and expert axes: loss curves of real two-rank jobs, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.parallel.check import SHAPES
from model.parallel.mesh import Mesh, MeshError
from model.parallel.processes import alone
from model.parallel.zero import ZeroConfig, ZeroTrainer

REPOSITORY = Path(__file__).resolve().parents[2]


def learned(*arguments: str) -> float:
    """By how much the loss fell in one process, after a job of two whose curve is the same (`model.parallel.check`)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "model.parallel.check", "--json", "--learning-rate", "0.01", *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [(*process.communicate(timeout=240), process.returncode) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert [code for _, _, code in ended] == [0, 0], ended
    document: dict[str, Any] = json.loads(ended[0][0].splitlines()[-1])  # DeepSpeed logs to the same stream
    return float(document["single"][0] - document["single"][-1])


def test_zero_one_trains_as_one_process_does() -> None:
    assert learned("--mesh", "dp=2", "--zero", "1") > 0.05


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_other_stages_train_as_one_process_does(stage: int, model: str) -> None:
    assert learned("--mesh", "dp=2", "--zero", str(stage), "--model", model, "--micro-batches", "2") > 0.05


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloaded_states_train_alike(stage: int) -> None:
    assert learned("--mesh", "dp=2", "--zero", str(stage), "--offload") > 0.05


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_near_fp32(stage: int) -> None:
    assert learned("--mesh", "dp=2", "--zero", str(stage), "--bf16", "--tolerance", "0.02") > 0.05


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2])
def test_spread_experts_train_alike_where_clipping_does_not_bind(stage: int) -> None:
    assert learned("--mesh", "dp=2,ep=2", "--zero", str(stage), "--clip", "1e9") > 0.05


@pytest.mark.parametrize(
    ("mesh", "stage", "message"),
    [
        (Mesh(tp=2), 1, "use ParallelTrainer for tp and pp"),
        (Mesh(pp=2), 1, "use ParallelTrainer for tp and pp"),
        (Mesh(dp=2, ep=2), 3, "refuses expert parallelism under ZeRO 3"),
        (Mesh(dp=3, ep=3), 1, "n_experts"),
    ],
)
def test_what_deepspeed_cannot_is_refused_before_it_is_asked(mesh: Mesh, stage: int, message: str) -> None:
    processes = dataclasses.replace(alone(), mesh=mesh)
    with pytest.raises(MeshError, match=message):
        ZeroTrainer(SHAPES["small-moe"], {}, processes, zero=ZeroConfig(stage))


def test_impossible_stages_are_refused() -> None:
    with pytest.raises(MeshError, match="stages 0 to 3, not 4"):
        ZeroConfig(4)
    with pytest.raises(MeshError, match="offload needs"):
        ZeroConfig(0, offload=True)
