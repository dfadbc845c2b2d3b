"""Rates of products in two formats: the kernels that training uses, on a machine that others use too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.kernel_ways import LEAST_ROWS
from model.layers.linear import linear
from model.training.report import product_rates
from model.training.report.product_rates import SIDE, measure_product_rates


class BusyMachine:
    """A processor of 50 GFLOP/s in fp32 and 40 in bf16, at half of its speed in all but each seventh product.

    Its thread is off the core for 20 ms after each product, which only the wall clock counts.
    """

    def __init__(self) -> None:
        self.wall_ns = self.thread_ns = self.n_products = 0
        self.dtypes: list[torch.dtype] = []
        self.threads: set[int] = set()

    def perf_counter(self) -> float:
        return self.wall_ns / 1e9

    def thread_time_ns(self) -> int:
        return self.thread_ns

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, weight, self)
        return y

    def spend(self, x: Tensor, n_products: int) -> None:
        self.dtypes.append(x.dtype)
        self.threads.add(torch.get_num_threads())
        gflops = 40 if x.dtype is torch.bfloat16 else 50
        own_ns = n_products * 2 * x.shape[0] * SIDE**2 // gflops * (2 if self.n_products % 7 else 1)
        self.n_products += 1
        self.thread_ns += own_ns
        self.wall_ns += own_ns + 20_000_000


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, machine: object
    ) -> Tensor:
        ctx.x, ctx.weight, ctx.machine = x, weight, machine  # type: ignore[attr-defined]
        machine.spend(x, 1)  # type: ignore[attr-defined]
        return x.new_zeros(x.shape)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.machine.spend(ctx.x, 2)  # type: ignore[attr-defined]
        return ctx.x, ctx.weight, None  # type: ignore[attr-defined]


def test_rates_are_the_processor_s_own_while_others_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, threads = BusyMachine(), torch.get_num_threads()
    monkeypatch.setattr(product_rates, "time", machine)
    torch.set_num_threads(2)
    try:
        rates = measure_product_rates(10**6, multiply=machine.multiply, seconds=3.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert rates.fp32 == pytest.approx(50e9, rel=1e-3) and rates.bf16 == pytest.approx(40e9, rel=1e-3)
    assert machine.threads == {1}, "threads would wait for one another"
    assert 3.0 <= machine.perf_counter() < 3.2


def test_formats_alternate_and_each_is_timed_twice_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = BusyMachine()
    monkeypatch.setattr(product_rates, "time", machine)
    measure_product_rates(8, multiply=machine.multiply, seconds=0.0)
    once = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]  # there and back
    assert machine.dtypes == 3 * once  # the first of them loads kernels


@pytest.mark.parametrize("rows", [3, LEAST_ROWS])
def test_a_measurement_leaves_random_numbers_and_gradient_mode_alone(rows: int) -> None:
    before, seen = torch.get_rng_state(), set[int]()

    def multiply(x: Tensor, weight: Tensor) -> Tensor:
        seen.add(len(x))
        return linear(x, weight)

    with torch.no_grad():
        rates = measure_product_rates(rows, multiply=multiply, seconds=0.0)
        assert not torch.is_grad_enabled()
    assert 1e6 < rates.fp32 < 1e14 and 1e6 < rates.bf16 < 1e14
    assert seen == {rows}
    assert torch.equal(torch.get_rng_state(), before)  # else a resumed run would draw other random numbers
