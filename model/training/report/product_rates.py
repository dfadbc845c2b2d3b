"""Measure how fast this machine's CPU computes the products of a training step in bf16 and in fp32.

Measured with the function that the model's linear maps call, forward and backward, so that the kernels are those that
training uses for as many rows. Only the ratio of the two rates is wanted, in a fraction of a second and while other
processes run: the formats alternate on one thread, its own time on a core is counted, and the fastest call of each
product is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernel_ways import LEAST_ROWS
from model.layers.linear import linear
from model.training.report.gemm_peak import one_thread

SIDE = 256  # inputs and outputs of the linear map: a product takes a millisecond or less
MEASURE_S = 0.25

Multiply = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProductRates:
    """FLOP/s of one thread in each format."""

    fp32: float
    bf16: float


def measure_product_rates(
    rows: int, *, multiply: Multiply = linear, seconds: float = MEASURE_S
) -> ProductRates:
    """Return the rates of a linear map of `rows` rows, with its two gradients, measured for about `seconds`.

    From `LEAST_ROWS` rows on the kernels do not depend on how many there are, so more are not measured. Torch's random
    numbers and number of threads are those from before.
    """
    rows = min(rows, LEAST_ROWS)
    with one_thread(), torch.enable_grad():
        fp32, bf16 = (_Map(rows, dtype, multiply) for dtype in (torch.float32, torch.bfloat16))
        begun = time.perf_counter()
        while fp32.n_calls < 2 or time.perf_counter() - begun < seconds:
            fp32.call()
            bf16.call()
    return ProductRates(fp32.flops, bf16.flops)


class _Map:
    """A linear map in one format, and its fastest calls so far."""

    def __init__(self, rows: int, dtype: torch.dtype, multiply: Multiply) -> None:
        generator = torch.Generator().manual_seed(0)  # its own: a run's random numbers stay untouched
        x, weight, self._grad_y = (
            torch.randn(n, SIDE, generator=generator).to(dtype) for n in (rows, SIDE, rows)
        )
        self._x, self._weight = x.requires_grad_(), weight.requires_grad_()
        self._multiply = multiply
        self._operations = 6 * rows * SIDE**2  # of three products
        self._forward_ns = self._backward_ns = float("inf")
        self.n_calls = 0
        self._products()  # the first call loads kernels

    @property
    def flops(self) -> float:
        """FLOP/s over the fastest forward and the fastest backward pass."""
        return self._operations / (self._forward_ns + self._backward_ns) * 1e9

    def call(self) -> None:
        """Compute the three products once, and keep their times where they are the least."""
        forward_ns, backward_ns = self._products()
        self._forward_ns = min(self._forward_ns, forward_ns)
        self._backward_ns = min(self._backward_ns, backward_ns)
        self.n_calls += 1

    def _products(self) -> tuple[int, int]:
        begun_ns = time.thread_time_ns()
        y = self._multiply(self._x, self._weight)
        forward_ns = time.thread_time_ns()
        torch.autograd.grad(y, (self._x, self._weight), self._grad_y)
        return forward_ns - begun_ns, time.thread_time_ns() - forward_ns
