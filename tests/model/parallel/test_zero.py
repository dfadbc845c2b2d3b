"""DeepSpeed's engine over the data and expert axes: real two-rank jobs that train, go on and move, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.parallel.check_shapes import SHAPES
from model.parallel.mesh.mesh import Mesh, MeshError
from model.parallel.mesh.processes import alone
from model.parallel.zero.axis import ZeroTrainer
from model.parallel.zero.engine import ZeroConfig
from tests.benchmarks.sandbox.ordinary_user import as_user
from tests.model.parallel import zero_ranks

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]


def ranks_of(n_ranks: int, module: str, *arguments: str) -> str:
    """What the first rank of a job wrote."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(n_ranks),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_ranks)
    ]
    try:
        ended = [(*process.communicate(timeout=240), process.returncode) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert [code for _, _, code in ended] == [0] * n_ranks, ended
    return ended[0][0]


def learned(*arguments: str, n_ranks: int = 2) -> float:
    """By how much the loss fell in one process, after a job whose curves are the same (`model.parallel.check`)."""
    out = ranks_of(n_ranks, "model.parallel.check", "--json", "--learning-rate", "0.01", *arguments)
    document: dict[str, Any] = json.loads(out)
    return float(document["single"][0] - document["single"][-1])


def test_runs_go_on_move_evaluate_and_break_off_as_other_trainers_do() -> None:
    """One job, since imports are most of what a job costs."""
    found: dict[str, Any] = json.loads(ranks_of(2, zero_ranks.__name__))
    for run in found["going_on"].values():
        assert_goes_on_bit_for_bit(run)
    assert_is_one_process_s(found["moved"])
    for figures in found["evaluated"].values():
        assert_figures_are_the_other_trainer_s(figures)
    assert "does not report the gradients' norm under ZeRO 0" in found["refused"]
    for broken in found["broken"].values():
        assert_no_rank_is_updated(broken)


def assert_goes_on_bit_for_bit(run: dict[str, Any]) -> None:
    assert run["unlike_at_once"] == [] and run["unlike"] == []
    assert run["losses"][0] == run["losses"][1]
    assert run["moved"] > 50, "equal states prove little where nothing moves"


def assert_is_one_process_s(run: dict[str, Any]) -> None:
    """Though it moves between stages and meshes, under a bound of the gradients' norm."""
    assert run["learnt"] > 0.5
    assert run["difference"] < 1e-5


def assert_figures_are_the_other_trainer_s(figures: dict[str, Any]) -> None:
    before, loss, norm, after = figures["theirs"]
    assert [before, loss, norm, after] == pytest.approx(figures["ours"], rel=1e-5)
    assert after < before - 50 and norm > zero_ranks.RECIPE.clip_norm


def assert_no_rank_is_updated(broken: dict[str, Any]) -> None:
    assert broken["message"] == ["the loss of step 2 is nan"] * 2
    assert broken["unlike"] == []
    assert all(math.isfinite(figure) for figure in broken["next"])


def test_a_folder_of_path_that_may_not_be_searched_does_not_end_training(tmp_path: Path) -> None:
    """Of such a folder the system says that any program in it may not be run, where it could say that there is none."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    code = f"""
        import os, sys
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}")
        os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
        try:
            os.listdir("{closed}")
        except PermissionError:
            from model.parallel.check import main
            sys.exit(main(["--mesh", "dp=1", "--zero", "3", "--steps", "2", "--json"]))
        sys.exit("the folder may be read")
    """
    ended = as_user(code, path=f"{closed}:{os.environ['PATH']}", timeout_s=240)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["single"]) == 2


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
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
def test_spread_experts_train_alike_under_a_bound_of_the_gradients(stage: int) -> None:
    assert learned("--mesh", "dp=2,ep=2", "--zero", str(stage), "--clip", "0.5") > 0.05


@pytest.mark.long
def test_recomputed_activations_train_alike_under_zero_three() -> None:
    assert learned("--mesh", "dp=2", "--zero", "3", "--checkpointing", "full", "--packed") > 0.05


@pytest.mark.long
def test_a_run_under_zero_two_moves_to_spread_experts() -> None:
    assert learned("--mesh", "dp=2", "--mesh", "dp=2,ep=2", "--zero", "2", "--move") > 0.05


@pytest.mark.parametrize(
    ("mesh", "stage", "message"),
    [
        (Mesh(tp=2), 1, "not with tp or pp"),
        (Mesh(pp=2), 1, "where ParallelTrainer shards the optimiser's states"),
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
    with pytest.raises(MeshError, match="bf16 needs ZeRO 1, 2 or 3"):
        ZeroConfig(0, is_bf16=True)
