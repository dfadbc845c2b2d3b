"""Updates give the same bits each time, also where several threads compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe.layer import MoELayer
from model.layers.quantisation.convert import quantise_training
from model.layers.watched import torch_instead
from model.training.optim.ordered_sums import ordered_sums
from model.training.run.engine import OneProcess
from tests.model.training.run.training_runs import data_for, run_config

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = MoEConfig(d_model=256, d_expert=64, n_experts=16, top_k=4)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(n_threads)


def input_gradients(config: MoEConfig, eight_bit: bool) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    layer = MoELayer(config).train()
    if eight_bit:
        quantise_training(layer, "int8")
    x_TD, grad_TD = torch.randn(512, config.d_model), torch.randn(512, config.d_model)

    def compute() -> Tensor:
        torch.manual_seed(1)  # of rounding
        given = x_TD.clone().requires_grad_()
        layer(given).backward(grad_TD)
        assert given.grad is not None
        return given.grad

    return compute


@pytest.mark.parametrize(
    ("config", "eight_bit", "form"),
    [
        (replace(CONFIG, capacity_factor=1.0), False, nullcontext()),
        (CONFIG, True, nullcontext()),
        (CONFIG, False, torch_instead()),
    ],
    ids=["capacity", "int8", "torch"],
)
def test_gradients_of_tokens_that_several_experts_got_have_the_same_bits_each_time(
    config: MoEConfig, eight_bit: bool, form: AbstractContextManager[None]
) -> None:
    compute = input_gradients(config, eight_bit)
    with form, ordered_sums(CPU):
        first, *others = [compute() for _ in range(30)]
    assert all(torch.equal(first, other) for other in others)


def test_an_update_of_a_run_sums_in_order_and_leaves_torch_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path / "run")
    data = data_for(config)
    engine = OneProcess(config, data)
    seen: list[bool] = []
    plain = engine.trainer.update

    def watched(*arguments: object, **named: object) -> object:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return plain(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.trainer, "update", watched)
    engine.update(next(data.stream), progress=0.0, learning_rate_scale=1.0)
    assert seen == [True] and not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_other_devices_are_left_alone() -> None:
    with ordered_sums(torch.device("meta")):
        assert not torch.are_deterministic_algorithms_enabled()
