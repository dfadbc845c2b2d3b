"""Experts on two devices: the hot ones come to the accelerator, stay there, and answers do not depend on it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError, ModelConfig, MoEConfig
from model.layers.moe.layer import Experts, moe_layers
from model.parallel.placement.device_model import DeviceModel, read_device_model, to_json
from model.parallel.placement.parts import place
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.offload.executor import OffloadExecutor
from model.serving.offload.experts import MovableExperts
from model.serving.offload.heat import HeatRules, exchanges, faded
from model.serving.offload.layout import Layout, spread
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_transformer, relative_error
from tests.model.serving.engine.paged_steps import Sequences, served_mix
from tests.model.serving.executors.executor_steps import logits_of
from tests.needs_torch import needs_cuda

CPU = torch.device("cpu")
MOE = MoEConfig(d_model=24, d_expert=16, n_experts=8, top_k=2, n_shared=1)
QWEN = dataclasses.replace(SMALL, name="qwen3-moe", qk_norm="head", moe=MOE)
MIXED = dataclasses.replace(QWEN, name="mixed", n_layers=4, dense_layers=(0,), ffn_owners=(0, 1, 1, 3))
EAGER = HeatRules(margin=0, least_pairs=0, at_most=4, every_tokens=4)
heats = st.lists(st.floats(0, 1e6), min_size=2, max_size=12)


def over(model: Transformer) -> TorchExecutor:
    return TorchExecutor(model, 24, block_tokens=4)


# -- what moves -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(heats, st.data(), st.floats(0, 2), st.integers(1, 4))
def test_exchanges_bring_heat_and_come_to_rest(
    heat: list[float], data: st.DataObject, margin: float, at_most: int
) -> None:
    """At a load that stays, every exchange is an improvement, and after the last one none is worth it."""
    rules = HeatRules(margin=margin, at_most=at_most, least_pairs=1)
    hot = data.draw(st.sets(st.sampled_from(range(len(heat)))))
    for _ in range(len(heat) + 1):
        moves = exchanges(heat, sorted(hot), rules)
        if not moves:
            break
        assert len(moves) <= at_most
        for leaving, entering in moves:
            assert leaving in hot and entering not in hot and heat[entering] > heat[leaving]
            hot = (hot - {leaving}) | {entering}
    assert exchanges(heat, sorted(hot), rules) == []
    cold = set(range(len(heat))) - hot
    if hot and cold:
        best, worst = max(heat[expert] for expert in cold), min(heat[expert] for expert in hot)
        assert best < worst * (1 + margin) or best - worst < 1


def test_experts_of_nearly_equal_use_do_not_flutter() -> None:
    rules = HeatRules(margin=0.25, least_pairs=8)
    assert exchanges([100, 120, 0], [0], rules) == []
    assert exchanges([100, 126, 0], [0], rules) == [(0, 1)]
    assert exchanges([1, 8, 0], [0], rules) == []  # too few to mean anything
    assert exchanges([5, 5], [0], HeatRules(margin=0, least_pairs=0)) == []


def test_the_hottest_enter_first_for_the_coldest() -> None:
    assert exchanges([10, 20, 300, 400, 50], [0, 1, 4], HeatRules(at_most=2)) == [(0, 3), (1, 2)]
    assert exchanges([10, 20, 300, 400], [0, 1], HeatRules(at_most=1)) == [(0, 3)]


def test_use_that_ended_fades() -> None:
    rules = HeatRules(half_life_tokens=100)
    heat = faded([64.0, 0.0], [0, 8], 100, rules)
    assert heat == [32.0, 8.0]
    for _ in range(2):
        heat = faded(heat, [0, 8], 100, rules)
    assert heat[0] < heat[1]


@pytest.mark.parametrize(("field", "value"), [("margin", -0.1), ("at_most", 0), ("every_tokens", 0)])
def test_rules_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        HeatRules(**{field: value})


# -- moving -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=6), st.integers(0, 3))
def test_experts_compute_the_same_wherever_they_lie(moves: list[tuple[int, int]], seed: int) -> None:
    torch.manual_seed(seed)
    plain = Experts(MOE)
    movable = MovableExperts(plain, [0, 1, 2], CPU, CPU)
    for leaves, enters in moves:
        cold = [expert for expert in range(8) if expert not in movable.hot_ids]
        movable.exchange(movable.hot_ids[leaves], cold[enters])
    x, weights = torch.randn(9, 24), torch.rand(9, 2)
    chosen = torch.rand(9, 8).topk(2).indices
    assert torch.allclose(movable(x, weights, chosen), plain(x, weights, chosen), atol=1e-5)
    assert movable.take_load() == torch.bincount(chosen.flatten(), minlength=8).tolist()
    assert sum(movable.take_load()) == 0
    assert len(movable.hot_ids) == 3
    assert sum(p.numel() for p in movable.parameters()) == sum(p.numel() for p in plain.parameters())


def test_only_experts_of_different_sides_change_places() -> None:
    movable = MovableExperts(Experts(MOE), [0, 1], CPU, CPU)
    for leaving, entering in [(0, 1), (2, 3), (3, 0)]:
        with pytest.raises(ValueError, match="is not on the accelerator"):
            movable.exchange(leaving, entering)


def test_a_model_without_room_on_the_accelerator_moves_nothing() -> None:
    with pytest.raises(ValueError, match="is not on the accelerator"):
        MovableExperts(Experts(MOE), [], CPU, CPU).exchange(0, 1)


# -- serving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_hot", [0, 3, 8])
@pytest.mark.parametrize("config", [QWEN, MIXED, SMALL], ids=lambda config: config.name)
def test_served_tokens_are_those_of_one_device(config: ModelConfig, n_hot: int) -> None:
    whole = random_transformer(config).eval()
    expected, expected_tokens = served_mix(over(copy.deepcopy(whole)), config.vocab_size)
    n_hot = n_hot if config.moe is not None else 0
    # cpu:0 is another device to torch than cpu, so the stream visits the feed-forwards
    layout = Layout(n_hot, CPU, dense=torch.device("cpu", 0))
    executor = OffloadExecutor(whole, layout, over, EAGER)
    logits, tokens = served_mix(executor, config.vocab_size)
    assert tokens == expected_tokens
    for found, reference in zip(logits, expected, strict=True):
        assert found.shape == reference.shape
        if len(reference):
            assert relative_error(found, reference) < 1e-5
    assert (executor.n_moved > 0) == (n_hot == 3)
    if config.moe is not None:
        assert executor.n_hot_pairs == {0: 0, 8: executor.n_pairs}.get(n_hot, executor.n_hot_pairs)
        assert executor.n_pairs > 0


def test_experts_that_are_asked_for_come_to_the_accelerator() -> None:
    """A router that always takes experts 6 and 7 pulls them in, once."""
    model = random_transformer(QWEN).eval()
    for layer in moe_layers(model).values():
        layer.router.forward = lambda x: (  # type: ignore[method-assign]
            torch.full((len(x), 2), 0.5),
            torch.tensor([[6, 7]]).expand(len(x), 2),
        )
    executor = OffloadExecutor(model, Layout(2, CPU), over, HeatRules(every_tokens=8, least_pairs=4))
    sequences = Sequences(executor, QWEN.vocab_size)
    for _ in range(4):
        executor.step([sequences.part(0, sequences.random_tokens(8))])
    assert [experts.hot_ids for experts in executor.experts] == [[6, 7], [6, 7]]
    assert executor.n_moved == 4
    assert (executor.n_pairs, executor.n_hot_pairs) == (2 * 4 * 16, 2 * 3 * 16)


def test_a_block_that_was_copied_serves_as_the_first_one() -> None:
    executor = OffloadExecutor(random_transformer(QWEN).eval(), Layout(3, CPU), over, EAGER)
    first = Sequences(executor, QWEN.vocab_size).part(0, [1, 2, 3])
    executor.step([first])
    spare = next(block for block in range(executor.n_blocks) if block not in first.blocks)
    executor.copy_block(first.blocks[0], spare)
    again = dataclasses.replace(first, tokens=[4], past=3)
    copied = dataclasses.replace(again, blocks=[spare])
    assert torch.allclose(logits_of(executor, [copied]), logits_of(executor, [again]), atol=1e-5)


def test_more_hot_experts_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="qwen3-moe has 8 experts per layer"):
        spread(random_transformer(QWEN), Layout(9, CPU))
    with pytest.raises(ConfigError, match="small has 0 experts per layer"):
        spread(random_transformer(SMALL), Layout(1, CPU))


# -- layouts from placements ------------------------------------------------------------------------


def device(name: str, kind: str, memory_bytes: int, rate: float, link_gb_s: float) -> DeviceModel:
    rates = dict.fromkeys(("attention", "dense", "experts"), ((1.0, rate), (4096.0, rate)))
    if kind == "cpu":
        rates["data"] = ((1.0, 1e9),)
    return DeviceModel(name, kind, "2026-01-01", "float32", memory_bytes, rate / 1e9, link_gb_s, 0.0, rates)  # type: ignore[arg-type]


def test_a_placement_says_what_lies_where(tmp_path: Path) -> None:
    """An accelerator with room for all but half of the experts."""
    config = dataclasses.replace(QWEN, vocab_size=64)
    experts = config.n_layers * MOE.n_experts * 3 * MOE.d_model * MOE.d_expert * 4
    others = 4 * config.total_parameters - experts
    models = [
        device("host", "cpu", 1 << 30, 1e10, float("inf")),
        device("card", "cuda", others + experts // 2, 1e13, 1e3),
    ]
    for model in models:
        (tmp_path / model.name).write_text(to_json(model).replace("Infinity", json.dumps(1e308)))
    read = [read_device_model(tmp_path / model.name) for model in models]
    layout = Layout.planned(config, read, 16)
    assert (layout.attention.type, layout.dense.type, layout.accelerator.type) == ("cuda", "cuda", "cuda")
    assert layout.host == CPU and 0 < layout.n_hot <= 4


def test_one_device_holds_everything_itself() -> None:
    layout = Layout.planned(QWEN, [device("host", "cpu", 1 << 30, 1e10, float("inf"))], 16)
    assert layout == Layout(0, CPU)
    executor = OffloadExecutor(random_transformer(QWEN).eval(), layout, over)
    assert [experts.hot for experts in executor.experts] == [None, None]


def test_a_placement_on_a_device_that_is_not_there_is_refused() -> None:
    placement = place(QWEN, [device("host", "cpu", 1 << 30, 1e10, float("inf"))], 16, is_training=False)
    with pytest.raises(ConfigError, match="names host: give a device"):
        Layout.of(placement, {}, 8)


@needs_cuda("experts were not moved between host and device while serving")
def test_served_tokens_on_an_accelerator_are_those_of_the_host() -> None:
    whole = random_transformer(QWEN).eval()
    _, expected = served_mix(over(copy.deepcopy(whole)), QWEN.vocab_size)
    cuda = torch.device("cuda")
    executor = OffloadExecutor(whole, Layout(3, cuda, attention=cuda, dense=cuda), over, EAGER)
    _, tokens = served_mix(executor, QWEN.vocab_size)
    assert tokens == expected and executor.n_moved > 0
