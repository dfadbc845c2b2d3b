"""What the layers record equals what they did, each pass once, and costs nothing while it is off."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from model.config import MoEConfig
from model.layers.moe import metrics
from model.layers.moe.layer import MoELayer
from model.layers.moe.meter import is_recomputing

pytestmark = pytest.mark.slow


def make_layer(**changes: Any) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(MoEConfig(**{"d_model": 8, "d_expert": 4, "n_experts": 6, "top_k": 2, **changes})).train()


def test_metrics_say_what_the_layer_did() -> None:
    layer = make_layer(switch_loss=0.1, z_loss=0.2)
    model = nn.Sequential(nn.Linear(8, 8), layer)
    metrics.watch(model)
    passes = [torch.randn(2, 5, 8), torch.randn(1, 7, 8)]
    with torch.no_grad():
        for x in passes:
            model(x)
        seen = [layer.router(model[0](x).flatten(0, 1), return_scores=True) for x in passes]
    found = metrics.collect(model)["1"]
    chosen = torch.cat([routing.experts_TK for routing, _ in seen]).flatten().tolist()
    logits = torch.cat([scores.logits_TE for _, scores in seen]).double()
    load = [chosen.count(e) for e in range(6)]
    assert found.load == load and found.n_tokens == 17 and sum(load) == 34
    shares = [count / 34 for count in load if count]
    assert found.load_entropy == pytest.approx(-sum(p * math.log(p) for p in shares) / math.log(6))
    assert found.max_over_mean_load == pytest.approx(max(load) / (34 / 6))
    assert found.logit_rms == pytest.approx(logits.square().mean().sqrt().item(), rel=1e-6)
    assert found.dropped_share == 0
    z = [scores.logits_TE.double().logsumexp(-1).square().mean().item() for _, scores in seen]
    assert found.losses.keys() == {"switch", "z"}
    assert found.losses["z"] == pytest.approx(sum(z) / 2, rel=1e-5)
    assert 0.9 < found.losses["switch"] < 6
    assert json.loads(json.dumps(asdict(found)))["load"] == load


def test_dropped_pairs_of_all_passes_are_counted() -> None:
    layer = make_layer(capacity_factor=0.5)
    passes = [torch.randn(12, 8), torch.randn(30, 8)]
    dropped = []
    for x in passes:
        metrics.watch(layer)
        layer(x)
        dropped.append(metrics.collect(layer)[""].dropped_share * 2 * len(x))
    assert min(dropped) > 0
    metrics.watch(layer)
    for x in passes:
        layer(x)
    assert metrics.collect(layer)[""].dropped_share == pytest.approx(sum(dropped) / (2 * 42))


def test_collecting_starts_anew() -> None:
    layer = make_layer()
    metrics.watch(layer)
    layer(torch.randn(3, 8))
    assert metrics.collect(layer)[""].n_tokens == 3
    assert metrics.collect(layer) == {}
    layer(torch.randn(4, 8))
    assert metrics.collect(layer)[""].n_tokens == 4


@pytest.mark.parametrize(
    ("load", "entropy", "max_over_mean"),
    [([5, 5, 5, 5], 1.0, 1.0), ([20, 0, 0, 0], 0.0, 4.0), ([10, 10, 0, 0], 0.5, 2.0)],
)
def test_evenness_of_known_loads(load: list[int], entropy: float, max_over_mean: float) -> None:
    layer = make_layer(n_experts=4, top_k=1)
    metrics.watch(layer)
    layer.meter.record(torch.tensor(load), 0, torch.zeros(20, 4), {})
    found = metrics.collect(layer)[""]
    assert found.load_entropy == pytest.approx(entropy, abs=1e-12)
    assert found.max_over_mean_load == pytest.approx(max_over_mean)


def test_the_metrics_of_a_single_expert_are_numbers() -> None:
    layer = make_layer(n_experts=1, top_k=1)
    metrics.watch(layer)
    layer(torch.randn(3, 8))
    found = metrics.collect(layer)[""]
    assert (found.load, found.load_entropy, found.max_over_mean_load) == ([3], 1.0, 1.0)


def test_collecting_from_layers_that_nobody_watches_is_an_error() -> None:
    layer = make_layer()
    with pytest.raises(RuntimeError, match="watch"):
        metrics.collect(layer)
    metrics.watch(layer)
    metrics.watch(layer, on=False)
    with pytest.raises(RuntimeError, match="watch"):
        metrics.collect(layer)
    assert metrics.collect(nn.Linear(2, 2)) == {}


def test_inference_is_not_recorded() -> None:
    layer = make_layer()
    metrics.watch(layer)
    layer.eval()(torch.randn(3, 8))
    assert metrics.collect(layer) == {}


def test_a_layer_in_two_places_is_one_layer() -> None:
    layer = make_layer()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    metrics.watch(model)
    model(torch.randn(3, 8))
    assert [(name, found.n_tokens) for name, found in metrics.collect(model).items()] == [("0", 6)]


def test_recording_does_not_change_the_answer() -> None:
    layer, x = make_layer(), torch.randn(9, 8)
    expected = layer(x)
    metrics.watch(layer)
    assert torch.equal(layer(x), expected)


def plain(layer: MoELayer, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y


CHECKPOINTS: dict[str, Callable[[MoELayer, Tensor], Tensor]] = {
    "plain": plain,
    "non-reentrant": partial(checkpoint, use_reentrant=False),
    "without early stop": partial(checkpoint, use_reentrant=False, early_stop=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
    "selective": partial(
        checkpoint,
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default]),
    ),
}


@pytest.mark.parametrize("run", CHECKPOINTS)
def test_a_recomputed_pass_is_counted_once(run: str) -> None:
    layer = make_layer(bias_balancing=True, switch_loss=0.1, capacity_factor=0.5)
    forwards: list[bool] = []
    layer.router.register_forward_hook(lambda *_: forwards.append(is_recomputing()))
    metrics.watch(layer)
    for _ in range(2):
        CHECKPOINTS[run](layer, torch.randn(3, 5, 8, requires_grad=True)).sum().backward()
    assert forwards == ([False, False] if run == "plain" else [False, True] * 2)
    assert layer.load_E is not None and int(layer.load_E.sum()) == 2 * 3 * 5 * 2
    found = metrics.collect(layer)[""]
    assert found.n_tokens == 2 * 3 * 5 and sum(found.load) == 60
    assert 0 < found.dropped_share < 1 and 0.9 < found.losses["switch"] < 3


@pytest.mark.long  # Dynamo takes its time
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_compiled_layer_counts_and_learns_as_a_plain_one(is_checkpointed: bool) -> None:
    layer = make_layer(
        bias_balancing=True, switch_loss=0.1, z_loss=0.1
    ).double()  # fp32 grouped_mm cannot compile
    plain_layer = copy.deepcopy(layer)
    metrics.watch(layer)
    run = CHECKPOINTS["non-reentrant" if is_checkpointed else "plain"]
    compiled = torch.compile(lambda x: run(layer, x), backend="aot_eager")
    for _ in range(2):
        x = torch.randn(3, 5, 8, dtype=torch.float64)
        compiled(x).square().sum().backward()
        plain_layer(x).square().sum().backward()
    for parameter, expected in zip(layer.parameters(), plain_layer.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad)
    assert layer.load_E is not None and plain_layer.load_E is not None
    assert torch.equal(layer.load_E, plain_layer.load_E)
    assert metrics.collect(layer)[""].n_tokens == 30


def test_nested_checkpoints_count_once() -> None:
    layer = make_layer()
    metrics.watch(layer)
    inner = partial(checkpoint, layer, use_reentrant=False)
    y = checkpoint(lambda x: inner(x).tanh(), torch.randn(3, 8, requires_grad=True), use_reentrant=False)
    assert isinstance(y, Tensor)
    y.sum().backward()
    assert metrics.collect(layer)[""].n_tokens == 3


def test_a_pass_between_forward_and_backward_of_another_counts() -> None:
    """As pipelines interleave micro-batches."""
    layer = make_layer()
    metrics.watch(layer)
    ys = [checkpoint(layer, torch.randn(3, 8, requires_grad=True), use_reentrant=False) for _ in range(3)]
    for y in ys:
        assert isinstance(y, Tensor)
        y.sum().backward()
    assert metrics.collect(layer)[""].n_tokens == 9


def test_a_process_that_only_computes_does_not_import_the_compiler() -> None:
    """It would cost each sample of the judge most of a second, twice a pair."""
    code = (
        "import sys, model.transformer, model.training.run.trainer; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
