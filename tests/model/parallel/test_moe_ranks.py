"""Bias balancing and metrics over two gloo ranks equal those of one process that sees both halves of the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import MoEConfig
from model.layers.moe import metrics
from model.layers.moe.balance import balance_experts
from model.layers.moe.layer import MoELayer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
CONFIG = MoEConfig(8, 4, 6, 2, bias_balancing=True, switch_loss=0.1, capacity_factor=0.5)
LIMIT_S = 240  # two imports of torch, on a machine that may be busy

RANK = """
import json, sys
from dataclasses import asdict
import torch
import torch.distributed as dist
from torch import nn
from model.config import MoEConfig
from model.layers.moe import metrics
from model.layers.moe.balance import balance_experts
from model.layers.moe.layer import MoELayer

rank, store, config, state, xs = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), *torch.load(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
layer = MoELayer(MoEConfig(**config)).train()
layer.load_state_dict(state)
model = nn.Sequential(layer, nn.Linear(8, 8), MoELayer(MoEConfig(**{**config, "n_experts": 4})).train())
metrics.watch(model)
layer(xs[rank])
found = metrics.collect(model, group=dist.group.WORLD)
own = MoELayer(MoEConfig(**config)).train()  # a layer that the other rank does not have, as of a pipeline's stage
own.load_state_dict(state)
own(xs[rank])
if rank == 0:
    balance_experts(own, 0.25)  # without a group nobody else is waited for
balance_experts(model, 0.25, group=dist.group.WORLD)
print(json.dumps({
    "own": own.router.bias.tolist(),
    "metrics": {name: asdict(value) for name, value in found.items()},
    "bias": layer.router.bias.tolist(),
    "left": int(layer.load_E.sum()),
    "idle": model[2].router.bias.tolist(),
}))
dist.destroy_process_group()
"""


def run_ranks(folder: Path, layer: MoELayer, xs: torch.Tensor) -> list[dict[str, Any]]:
    torch.save((layer.state_dict(), xs), folder / "inputs.pt")
    config = json.dumps({name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__})
    arguments = [str(folder / "store"), config, str(folder / "inputs.pt")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        answers = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], answers
    return [json.loads(out) for out, _ in answers]


def test_two_ranks_balance_and_count_as_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = MoELayer(CONFIG).train()
    xs = torch.randn(2, 20, 8)
    xs[0] += 2 * layer.router.weight[0].detach()  # the ranks disagree on which experts are popular
    xs[1] += 2 * layer.router.weight[1].detach()
    first, second = run_ranks(tmp_path, layer, xs)
    own = [first.pop("own"), second.pop("own")]
    assert first == second
    metrics.watch(layer)
    for x in xs:  # as the ranks: capacity binds within each half
        layer(x)
    assert layer.load_E is not None and layer.router.bias is not None
    alone = torch.sign(torch.bincount(layer.router(xs[0]).experts_TK.flatten(), minlength=6) - 40 / 6)
    expected = metrics.collect(layer)[""]
    balance_experts(layer, 0.25)
    assert first["bias"] == layer.router.bias.tolist()
    assert not torch.equal(-torch.sign(layer.router.bias), alone)  # one rank alone would have moved otherwise
    assert own == [(-0.25 * alone).tolist(), [0.0] * 6]  # rank 0 alone
    assert first["left"] == 0 and first["idle"] == [0.0] * 4
    assert list(first["metrics"]) == ["0"]  # no pass went through the other layer
    found = first["metrics"]["0"]
    assert found["load"] == expected.load and found["n_tokens"] == 40
    assert found["dropped_share"] == expected.dropped_share > 0
    assert abs(found["losses"]["switch"] - expected.losses["switch"]) < 1e-5
