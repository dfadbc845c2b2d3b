"""The compiled AdamW equals float64's and torch's, at any size, with any number of threads, on any numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.layers.watched import torch_instead
from model.training.optim import adamw_fused
from model.training.optim.adamw_fused import Rates
from tests.needs_torch import needs_kernels

pytestmark = needs_kernels

RATES = Rates(1e-2, 0.9, 0.95, 1e-8, 0.1, step=1)
SIZES = st.one_of(st.integers(1, 70), st.sampled_from([16_383, 16_384, 16_385, 40_000]))
TINY = 2.0**-130  # below the least normal number, and one in bf16


def problem(size: int, n_steps: int, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Weights, and gradients of which some are large and some zero."""
    rng = torch.Generator().manual_seed(seed + 31 * size)
    weights = torch.randn(size, generator=rng)
    gradients = [torch.randn(size, generator=rng) * 10.0 ** (step % 5 - 3) for step in range(n_steps)]
    gradients[-1][::3] = 0
    return weights, gradients


def moved(weights: Tensor, gradients: list[Tensor], rates: Rates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, both moments and the copy behind one step a gradient."""
    weights = weights.clone()
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    copy = torch.empty_like(weights, dtype=torch.bfloat16)
    for step, gradient in enumerate(gradients, 1):
        adamw_fused.step_(weights, gradient, first, second, copy, replace(rates, step=step))
    return weights, first, second, copy


def exactly_moved(weights: Tensor, gradients: list[Tensor], rates: Rates) -> tuple[Tensor, Tensor, Tensor]:
    """The textbook in float64."""
    w = weights.double()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for step, gradient in enumerate(gradients, 1):
        g = rates.factor * gradient.double()
        first = rates.beta1 * first + (1 - rates.beta1) * g
        second = rates.beta2 * second + (1 - rates.beta2) * g * g
        unbiased = second / (1 - rates.beta2**step)
        w = w * (1 - rates.learning_rate * rates.weight_decay)
        w = w - rates.learning_rate * first / (1 - rates.beta1**step) / (unbiased.sqrt() + rates.eps)
    return w, first, second


def with_threads(n: int, compute: Callable[[], object]) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        return compute()
    finally:
        torch.set_num_threads(before)


@given(
    size=SIZES,
    n_steps=st.integers(1, 12),
    weight_decay=st.sampled_from([0.0, 0.1]),
    beta1=st.sampled_from([0.0, 0.9]),
    beta2=st.sampled_from([0.5, 0.95, 0.999]),
    eps=st.sampled_from([1e-8, 1e-3]),
    factor=st.sampled_from([1.0, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_weights_and_moments_are_those_of_float64(
    size: int, n_steps: int, weight_decay: float, beta1: float, beta2: float, eps: float, factor: float
) -> None:
    weights, gradients = problem(size, n_steps)
    rates = Rates(1e-2, beta1, beta2, eps, weight_decay, step=1, factor=factor)
    found, first, second, _ = moved(weights, gradients, rates)
    exact, exact_first, exact_second = exactly_moved(weights, gradients, rates)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    torch.testing.assert_close(first.double(), exact_first, rtol=1e-5, atol=1e-6 * factor * largest)
    torch.testing.assert_close(second.double(), exact_second, rtol=2e-5, atol=0)
    # A step rounds a weight of 4 by at most 2^-22, and its own length by some hundred-thousandths.
    distance = float((exact - weights).abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=n_steps * 2.0**-22 + 2e-5 * distance)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_hundred_steps_are_torch_s(weight_decay: float) -> None:
    weights, gradients = problem(1000, 100)
    theirs = nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW(
        [theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, fused=True
    )
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    found, first, second, _ = moved(weights, gradients, replace(RATES, weight_decay=weight_decay))
    exact, *_ = exactly_moved(weights, gradients, replace(RATES, weight_decay=weight_decay))
    torch.testing.assert_close(found, theirs.detach(), rtol=0, atol=5e-6)
    torch.testing.assert_close(first, optimizer.state[theirs]["exp_avg"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, optimizer.state[theirs]["exp_avg_sq"], rtol=1e-5, atol=0)
    # As near to the truth as theirs.
    assert (found - exact).abs().max() <= 1.5 * (theirs.detach() - exact).abs().max()


def test_the_first_step_has_the_learning_rate_s_size_whatever_the_gradient_s() -> None:
    weights = torch.zeros(4)
    gradient = torch.tensor([1e-4, -1e-4, 1e4, -1e4])
    found, *_ = moved(weights, [gradient], replace(RATES, weight_decay=0.0))
    torch.testing.assert_close(found, -1e-2 * gradient.sign(), rtol=2e-4, atol=0)


def test_without_a_gradient_s_size_weights_only_decay() -> None:
    weights, _ = problem(50, 1)
    found, first, second, _ = moved(weights, [torch.zeros(50)] * 3, RATES)
    torch.testing.assert_close(found, weights * (1 - 1e-3) ** 3, rtol=1e-6, atol=0)
    assert not first.any() and not second.any()


def test_numbers_below_the_least_normal_one_are_numbers_too() -> None:
    weights = torch.tensor([TINY, -TINY, 0.0] * 11)
    found, first, _, copy = moved(weights, [torch.full((33,), TINY)], replace(RATES, learning_rate=1e-45))
    assert torch.equal(found, weights)
    assert torch.equal(copy, weights.bfloat16()) and copy[0] != 0
    torch.testing.assert_close(
        first.double(), torch.full((33,), 0.1 * TINY, dtype=torch.double), rtol=1e-2, atol=0
    )


@given(size=SIZES)
@settings(max_examples=30, deadline=None)
def test_the_copy_is_what_torch_casts(size: int) -> None:
    weights, gradients = problem(size, 1)
    weights[0], weights[-1] = float("inf"), float("nan")
    found, _, _, copy = moved(weights, gradients, RATES)
    torch.testing.assert_close(copy, found.bfloat16(), rtol=0, atol=0, equal_nan=True)


@given(size=SIZES)
@settings(max_examples=30, deadline=None)
def test_a_gradient_in_bf16_counts_as_its_number_in_fp32(size: int) -> None:
    weights, gradients = problem(size, 2)
    rounded = [gradient.bfloat16() for gradient in gradients]
    for found, expected in zip(
        moved(weights, rounded, RATES),
        moved(weights, [gradient.float() for gradient in rounded], RATES),
        strict=True,
    ):
        assert torch.equal(found, expected)
    assert adamw_fused.squares(rounded[0]) == pytest.approx(
        float(rounded[0].double().square().sum()), rel=4e-6
    )


def test_no_number_depends_on_threads() -> None:
    weights, gradients = problem(100_001, 3)
    one, two = (with_threads(n, lambda: moved(weights, gradients, RATES)) for n in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))  # type: ignore[call-overload]
    assert len({with_threads(n, lambda: adamw_fused.squares(gradients[0])) for n in (1, 2, 3)}) == 1


def test_nothing_around_the_numbers_is_touched() -> None:
    """Sizes that are no multiple of a vector, in the middle of other numbers."""
    for size in (1, 7, 15, 17, 33):
        whole = torch.full((5, size + 64), 3.0)
        copies = torch.full((size + 64,), 3.0, dtype=torch.bfloat16)
        weights, gradient, first, second = (row[32 : 32 + size] for row in whole[:4])
        adamw_fused.step_(weights, gradient, first, second, copies[32 : 32 + size], RATES)
        for numbers in (*whole, copies.float()):
            assert (numbers[:32] == 3).all() and (numbers[32 + size :] == 3).all()
        assert not (weights == 3).any() and not (copies[32 : 32 + size] == 3).any()


@given(size=SIZES)
@settings(max_examples=30, deadline=None)
def test_the_sum_of_squares_is_float64_s(size: int) -> None:
    _, (gradient,) = problem(size, 1)
    exact = float(gradient.double().square().sum())
    assert adamw_fused.squares(gradient) == pytest.approx(exact, rel=4e-6)


@pytest.mark.parametrize("wrong", ["inf", "nan"])
@pytest.mark.parametrize("place", [0, 20, 20_000])
def test_a_sum_of_squares_with_what_is_no_number_is_none(wrong: str, place: int) -> None:
    gradient = torch.ones(20_001)
    gradient[place] = float(wrong)
    assert str(adamw_fused.squares(gradient)) == wrong
    assert str(adamw_fused.squares(gradient.bfloat16())) == wrong


def test_autograd_notices_what_the_kernel_writes() -> None:
    weights = nn.Parameter(torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    product = (weights * x).sum()
    moments = torch.zeros(3), torch.zeros(3)
    adamw_fused.step_(weights.detach(), torch.ones(3), *moments, None, RATES)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("wrong", range(1, 5))
def test_tensors_of_another_shape_are_refused(wrong: int) -> None:
    tensors = [torch.ones(3, 4) for _ in range(4)] + [torch.ones(3, 4, dtype=torch.bfloat16)]
    tensors[wrong] = tensors[wrong][:2].contiguous()
    with pytest.raises(ValueError, match=r"shape \[3, 4\] cannot be moved by .*\[2, 4\]"):
        adamw_fused.step_(*tensors, RATES)  # type: ignore[arg-type]
    assert (tensors[0] == 1).all()


def test_what_it_is_used_for() -> None:
    matrix = torch.zeros(3, 4)
    assert adamw_fused.is_usable() and adamw_fused.reads(matrix) and adamw_fused.moves(matrix)
    assert adamw_fused.reads(matrix.bfloat16()) and not adamw_fused.moves(matrix.bfloat16())
    assert adamw_fused.moves(nn.Parameter(matrix))
    for other in (matrix.double(), matrix.mT, matrix.to("meta"), matrix.to_sparse()):
        assert not adamw_fused.reads(other) and not adamw_fused.moves(other)
    with torch_instead():
        assert not adamw_fused.is_usable()
