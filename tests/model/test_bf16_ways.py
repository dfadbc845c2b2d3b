"""Each way of multiplying bf16 numbers that this processor has gives right products, and equal ones by one way.

A build of all kernels for each way, of which the stack itself uses one. `tests/model/test_other_ways.py` has the
ways of processors with AVX-512 for machines without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from model import kernel_ways, native
from model.layers import linear_fused
from model.layers.attention import gqa_fused
from model.layers.moe import experts_fused, experts_reference
from tests.needs_torch import needs_bf16_pairs

pytestmark = pytest.mark.slow

WAYS = ["fma", pytest.param("dot", marks=needs_bf16_pairs)]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """All kernels by one way."""
    monkeypatch.setenv(kernel_ways.FORCED, request.param)
    native._load.cache_clear()
    yield request.param
    native._load.cache_clear()


def numbers(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """One rounding of bf16 apart at most, and a sum's own error."""
    scale = expected.float().abs().max()
    assert (found.float() - expected.float()).abs().max() <= 2**-7 * scale


#: Rows and widths around whole vectors, tiles, widened pieces and packed blocks.
@pytest.mark.parametrize("rows", [1, 6, 13])
@pytest.mark.parametrize("inputs", [1, 31, 512, 513, 2100])
def test_linear_maps_are_right(way: str, rows: int, inputs: int) -> None:
    x_MK, weight_NK, grad_MN = numbers(rows, inputs), numbers(70, inputs, seed=1), numbers(rows, 70, seed=2)
    assert_close(linear_fused.project(x_MK, weight_NK), x_MK.float() @ weight_NK.float().mT)
    assert_close(linear_fused.grad_input(grad_MN, weight_NK), grad_MN.float() @ weight_NK.float())
    assert_close(linear_fused.grad_weight(grad_MN, x_MK), grad_MN.float().mT @ x_MK.float())
    exact = grad_MN.double().mT @ x_MK.double()
    found = linear_fused.add_grad_weight(grad_MN, x_MK, None)
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()  # sums are fp32


def test_a_row_depends_on_neither_its_neighbours_nor_the_threads(way: str) -> None:
    x_MK, weight_NK = numbers(1100, 700), numbers(90, 700, seed=1)
    whole = linear_fused.project(x_MK, weight_NK)
    for first, last in ((0, 1), (3, 20), (1090, 1100)):
        assert torch.equal(linear_fused.project(x_MK[first:last].contiguous(), weight_NK), whole[first:last])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(linear_fused.project(x_MK, weight_NK), whole)
    finally:
        torch.set_num_threads(threads)


def gradients(apply: Callable[..., Tensor], leaves: list[Tensor], *rest: Tensor) -> list[Tensor]:
    wanted = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    y = apply(wanted, *rest)
    return [y, *torch.autograd.grad(y.float().square().sum(), wanted)]


@pytest.mark.parametrize("tokens", [3, 300])  # read in place, and packed
def test_experts_are_right(way: str, tokens: int) -> None:
    leaves = [
        numbers(tokens, 40),
        *(numbers(4, *size, seed=1) * 0.3 for size in ((50, 40), (50, 40), (40, 50))),
    ]
    chosen = torch.stack(
        [torch.randperm(4, generator=torch.Generator().manual_seed(t))[:2] for t in range(tokens)]
    )
    weights = torch.rand(tokens, 2, generator=torch.Generator().manual_seed(3))

    def by(apply: Callable[..., Tensor]) -> list[Tensor]:
        return gradients(lambda wanted: apply(wanted[0], weights, chosen, *wanted[1:]), leaves)

    for found, expected in zip(
        by(experts_fused.apply_experts), by(experts_reference.apply_experts), strict=True
    ):
        scale = expected.float().abs().max()
        assert (found.float() - expected.float()).abs().max() <= 3e-2 * scale


def test_attention_is_right(way: str) -> None:
    leaves = [numbers(2, 130, heads, 24, seed=heads) for heads in (4, 2, 2)]

    def fused(wanted: list[Tensor]) -> Tensor:
        return gqa_fused.attend(*wanted, 24**-0.5)

    def exact(wanted: list[Tensor]) -> Tensor:
        q, k, v = (heads.float().transpose(1, 2) for heads in wanted)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2)

    for found, expected in zip(gradients(fused, leaves), gradients(exact, leaves), strict=True):
        scale = expected.float().abs().max()
        assert (found.float() - expected.float()).abs().max() <= 3e-2 * scale
