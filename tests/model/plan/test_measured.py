"""The planner's formulas against real shards, live tensors and, in a job of two ranks, counted messages."""

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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import LatentConfig, ModelConfig
from model.layers.watched import torch_instead
from model.parallel.check_shapes import SHAPES
from model.parallel.mesh.mesh import Mesh
from model.parallel.mesh.processes import alone
from model.parallel.mesh.shards import load
from model.parallel.stage import Stage
from model.plan.__main__ import main
from model.plan.activations import stage_activations
from model.plan.check import MODEL, step_peak
from model.plan.costs import fullest_memory
from model.plan.layout import PRECISIONS, Layout, Workload
from model.plan.measure import LiveBytes, kept_by, shard_parameters
from model.plan.shapes import model_of
from model.plan.sizes import rank_parameters
from model.training.losses.cross_entropy import next_token_targets
from model.transformer import Transformer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
LATENT = dataclasses.replace(
    MODEL, n_kv_heads=8, latent=LatentConfig(kv_rank=48, d_nope=16, d_rope=8, d_value=16, q_rank=64)
)
VARIANTS: dict[str, ModelConfig] = {
    "grouped": MODEL,
    "dense": dataclasses.replace(MODEL, moe=None),
    "normed-heads": dataclasses.replace(MODEL, qk_norm="head", qkv_bias=True),
    "latent": LATENT,
    "sigmoid-gated": dataclasses.replace(
        MODEL, moe=dataclasses.replace(MODEL.moe, gate="sigmoid", gate_shared=True, n_shared=2)
    ),
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*SHAPES.values(), *VARIANTS.values()]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]),
    st.data(),
)
def test_formula_and_shard_have_equal_parameters(
    config: ModelConfig, tp: int, pp: int, ep: int, data: st.DataObject
) -> None:
    ep = ep if config.moe is not None else 1
    etp = 1 if ep > 1 and data.draw(st.booleans()) else None
    mesh = Mesh(dp=2 * ep, tp=tp, pp=pp, ep=ep, etp=etp)
    rank = data.draw(st.integers(0, mesh.world_size - 1))
    assert shard_parameters(config, mesh, rank) == rank_parameters(config, mesh, mesh.coordinates(rank).pp)


@pytest.mark.parametrize(
    "mesh", [Mesh(dp=16, tp=2, pp=8, ep=16), Mesh(dp=4, tp=4, pp=16, ep=16, etp=1)], ids=str
)
def test_shards_of_a_trillion_parameters_are_as_large_as_the_formula_says(mesh: Mesh) -> None:
    config = model_of(1e12)
    for rank in (0, 255):
        formula = rank_parameters(config, mesh, mesh.coordinates(rank).pp)
        assert shard_parameters(config, mesh, rank) == formula
        assert formula.total > 3e9


def test_verify_compares_the_best_layout(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--config",
        "tiny",
        "--devices",
        "4",
        "--tokens",
        "64",
        "--batch",
        "16",
        "--verify",
        "--json",
    ]
    assert main(arguments) == 0
    verified = json.loads(capsys.readouterr().out)["verified"]
    assert [row["rank"] for row in verified] == [0, 2, 3]
    assert all(row["counted"] == row["formula"] for row in verified)


def test_live_bytes_follow_tensors_as_they_come_and_go() -> None:
    kept = torch.ones(10)
    with LiveBytes() as live:
        a = torch.zeros(100)
        assert live.now == 400
        b = a + 1
        a.add_(1)
        view = b.view(10, 10)
        kept.mul_(2)
        assert live.now == 800
        del a
        assert live.now == 400
        del b
        assert live.now == 400  # the view keeps it
        del view
        assert live.now == 0
        x = torch.ones(50, requires_grad=True)
        y = (x * x).exp().sum()
        assert live.now == 200 + 200 + 4  # x, the exponentials that autograd saves, the sum
        del y
        assert live.now == 200
    assert live.peak == 800


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kept_activations_are_within_five_per_cent(variant: str, checkpointing: Any, precision: str) -> None:
    config, rows, tokens = VARIANTS[variant], 2, 64
    workload = Workload(config, tokens, rows, PRECISIONS[precision])
    layout = Layout(Mesh(), rows, checkpointing)
    stage = Stage(config, Mesh(), Mesh().coordinates(0))
    if precision == "bf16":
        stage.cast_blocks(torch.bfloat16)
    torch.manual_seed(0)
    load(stage, Transformer(config).state_dict(), Mesh(), Mesh().coordinates(0), torch.device("cpu"))
    stage.train()
    stage.checkpointing = checkpointing
    ids = torch.randint(config.vocab_size, (rows, tokens))
    targets = next_token_targets(ids)
    stage(ids, targets_BS=targets)  # tables of rotations are made once
    with torch_instead():  # the formulas count what torch's operations save; our own save less
        loss, kept = kept_by(lambda: stage(ids, targets_BS=targets))
        predicted = stage_activations(workload, layout, 0)
        assert kept + ids.numel() * 8 == pytest.approx(predicted, rel=0.05)
        loss.backward()


@pytest.mark.parametrize(
    ("variant", "checkpointing", "precision"),
    [
        ("many-experts", "full", "bf16"),
        ("many-experts", "none", "fp32"),
        ("grouped", "full", "fp32"),
        ("dense", "selective", "bf16"),
        ("latent", "none", "bf16"),
    ],
)
def test_peak_of_a_step_is_within_five_per_cent(variant: str, checkpointing: Any, precision: str) -> None:
    """Of all tensors: where weights and states are most of it, and where activations are."""
    if variant == "many-experts":
        moe = dataclasses.replace(MODEL.moe, n_experts=64, d_expert=128)
        config, rows = dataclasses.replace(MODEL, moe=moe), 1
    else:
        config, rows = VARIANTS[variant], 8
    workload = Workload(config, 64, 2 * rows, PRECISIONS[precision])
    layout = Layout(Mesh(), rows, checkpointing, has_kernels=False)
    torch.manual_seed(0)
    with torch_instead():
        measured = step_peak(workload, layout, alone(), Transformer(config).state_dict())
    assert measured == pytest.approx(fullest_memory(workload, layout).total, rel=0.05)


def run_check(n_ranks: int, *arguments: str) -> list[dict[str, Any]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "model.plan.check", "--json", *arguments],
            env={**shared, "RANK": str(rank), "WORLD_SIZE": str(n_ranks)},
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
    assert all(code in (0, 1) for _, _, code in ended), ended
    rows: list[dict[str, Any]] = json.loads(ended[0][0])["rows"]
    return rows


def test_messages_and_memory_of_two_ranks_are_within_five_per_cent() -> None:
    rows = run_check(2, "--mesh", "tp=2", "--mesh", "dp=2,ep=2", "--mesh", "pp=2")
    assert {row["name"] for row in rows} == {
        "tp bytes",
        "dp bytes",
        "ep bytes",
        "pp bytes",
        "ends bytes",
        "activations",
        "peak fp32",
        "peak bf16",
    }
    assert all(row["measured"] > 10_000 for row in rows)
    assert [row for row in rows if row["off"] > 0.05] == []


@pytest.mark.long
def test_messages_and_memory_of_two_ranks_with_whole_experts_are_within_five_per_cent() -> None:
    rows = run_check(2, "--mesh", "tp=2,ep=2,etp=1")
    names = {"tp bytes", "ep bytes", "activations", "peak fp32", "peak bf16"}
    assert {row["name"] for row in rows} == names
    assert all(row["measured"] > 10_000 for row in rows)
    assert [row for row in rows if row["off"] > 0.05] == []


@pytest.mark.long
def test_messages_and_memory_of_two_ranks_that_split_the_sequence_are_within_five_per_cent() -> None:
    rows = run_check(2, "--mesh", "tp=2", "--sequence")
    assert {row["name"] for row in rows} == {"tp bytes", "activations", "peak fp32", "peak bf16"}
    assert all(row["splits_sequence"] and row["measured"] > 10_000 for row in rows)
    assert [row for row in rows if row["off"] > 0.05] == []


@pytest.mark.long
@pytest.mark.timeout(1200)  # many runs of up to four ranks, one after the other
def test_messages_and_memory_with_a_split_sequence_are_within_five_per_cent() -> None:
    for n_ranks, mesh in (
        (2, "tp=2"),
        (2, "tp=2,ep=2,etp=1"),
        (4, "tp=4"),
        (4, "pp=2,tp=2"),
        (4, "dp=2,tp=2,ep=2"),
        (4, "dp=2,tp=2,ep=4,etp=1"),
        (4, "dp=2,tp=2,ep=2,etp=1"),
    ):
        modes = (part for mode in ("none", "full", "selective") for part in ("--checkpointing", mode))
        rows = run_check(n_ranks, "--mesh", mesh, "--sequence", *modes)
        assert [row for row in rows if row["off"] > 0.05] == []


@pytest.mark.long
@pytest.mark.timeout(1200)  # many runs of up to four ranks, one after the other
def test_messages_under_checkpointing_and_on_four_ranks_are_within_five_per_cent() -> None:
    for n_ranks, mesh in (
        (2, "tp=2"),
        (2, "dp=2,ep=2"),
        (4, "pp=2,tp=2"),
        (4, "pp=2,dp=2,ep=2"),
        (4, "dp=4,ep=2"),
        (4, "dp=2,tp=2,ep=2"),
        (4, "dp=2,tp=2,ep=4,etp=1"),
        (4, "dp=2,tp=2,ep=2,etp=1"),
    ):
        rows = run_check(n_ranks, "--mesh", mesh, "--checkpointing", "full", "--checkpointing", "selective")
        assert [row for row in rows if row["off"] > 0.05] == []
