"""Products in int8 and in 8-bit floats against fp64, within bounds that follow from their steps alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.layers.quantisation import fp8, int8
from tests.needs_torch import needs_cuda

SIZES = [(1, 1, 1), (5, 7, 3), (16, 32, 8), (33, 65, 17), (40, 130, 50)]


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    """Rows and columns of very different size, some of them zero, and an outlier."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=rng)
    x *= 10 ** (2 * torch.randn(rows, 1, generator=rng)) * 10 ** torch.randn(1, columns, generator=rng)
    x[seed % rows] = 0
    x[:, seed % columns] *= 0 if columns > 2 else 1
    x[-1, -1] = 100 * x.abs().max()
    return x


def int8_bound(a: Tensor, b: Tensor, *, a_step: float = 0.5) -> Tensor:
    """How far a product may be off: |da||b| + |a||db| + |da||db| with |da|, |db| up to so many steps."""
    a, b = a.double(), b.double()
    da = a_step * a.abs().amax(1, keepdim=True) / 127
    db = 0.5 * b.abs().amax(0, keepdim=True) / 127
    return da * b.abs().sum(0, keepdim=True) + a.abs().sum(1, keepdim=True) * db + a.shape[1] * da * db


def fp8_bound(a: Tensor, b: Tensor, a_dtype: torch.dtype) -> Tensor:
    def error(x: Tensor, dtype: torch.dtype) -> Tensor:
        info = torch.finfo(dtype)
        scale = x.abs().max() / info.max
        return x.abs() * info.eps / 2 + scale * info.tiny * info.eps / 2

    a, b = a.double(), b.double()
    da, db = error(a, a_dtype), error(b, fp8.VALUES)
    return da @ b.abs() + a.abs() @ db + da @ db


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_int8_product_is_within_half_a_step_of_each_operand(size: tuple[int, int, int], seed: int) -> None:
    m, k, n = size
    a, b = matrix(m, k, seed), matrix(k, n, seed + 10)
    y, exact = int8.multiply(a, b), a.double() @ b.double()
    assert y.dtype is torch.float32 and y.shape == (m, n)
    assert ((y - exact).abs() <= int8_bound(a, b) * (1 + 1e-5) + 1e-30).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("a_dtype", [fp8.VALUES, fp8.GRADIENTS])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_an_fp8_product_is_within_half_a_step_of_each_operand(
    size: tuple[int, int, int], a_dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    m, k, n = size
    a, b = matrix(m, k, 3), matrix(k, n, 13)
    y, exact = fp8.multiply(a, b, a_dtype=a_dtype, out_dtype=out_dtype), a.double() @ b.double()
    assert y.dtype is out_dtype and y.shape == (m, n)
    rounding = exact.abs() * (2**-8 if out_dtype is torch.bfloat16 else 2**-20)
    summing = (a.double().abs() @ b.double().abs()) * (2**-7 if out_dtype is torch.bfloat16 else 2**-20)
    assert ((y - exact).abs() <= fp8_bound(a, b, a_dtype) + rounding + summing).all()


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 40), k=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_integers_up_to_127_multiply_exactly_in_any_size_padded_or_not(
    m: int, k: int, n: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(-127, 128, size, generator=rng).to(torch.int8) for size in ((m, k), (k, n)))
    exact = a.double() @ b.double()
    for strict in (False, True):
        y = int8.exact_product(a, b, strict=strict)
        assert y.shape == (m, n) and torch.equal(y.double(), exact)


def test_cuda_gets_the_sizes_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def checked(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.shape, b.shape))
        assert a.shape[0] > 16 and a.shape[1] % 8 == 0 and b.shape[1] % 8 == 0
        return (a.float() @ b.float()).to(torch.int32)

    monkeypatch.setattr(torch, "_int_mm", checked)
    int8.exact_product(torch.ones(3, 5, dtype=torch.int8), torch.ones(5, 7, dtype=torch.int8), strict=True)
    assert seen == [((24, 8), (8, 8))]


def test_fp8_operands_are_laid_out_as_cuda_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = torch._scaled_mm, []

    def checked(a: Tensor, b: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append((a.dtype, b.dtype))
        assert a.stride(1) == 1 and b.stride(0) == 1
        assert a.shape[1] % 16 == 0 and b.shape[1] % 16 == 0
        return real(a, b, *args, **kwargs)

    monkeypatch.setattr(torch, "_scaled_mm", checked)
    fp8.multiply(torch.randn(5, 7), torch.randn(9, 7).T)
    fp8.multiply(torch.randn(20, 50).T, torch.randn(20, 3), a_dtype=fp8.GRADIENTS)
    assert seen == [(fp8.VALUES, fp8.VALUES), (fp8.GRADIENTS, fp8.VALUES)]


@pytest.mark.parametrize("multiply", [int8.multiply, fp8.multiply])
def test_strides_do_not_matter(multiply: object) -> None:
    a, b = torch.randn(24, 40), torch.randn(40, 16)
    expected = multiply(a, b)  # type: ignore[operator]
    strided = torch.randn(24, 80)
    strided[:, ::2] = a
    for left in (a.T.contiguous().T, strided[:, ::2]):
        for right in (b.T.contiguous().T, torch.stack((b, b), dim=-1)[..., 0]):
            assert torch.equal(multiply(left, right), expected)  # type: ignore[operator]


@pytest.mark.parametrize("multiply", [int8.multiply, fp8.multiply])
@pytest.mark.parametrize("size", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_empty_operands_give_zeros_of_the_right_shape(multiply: object, size: tuple[int, int, int]) -> None:
    m, k, n = size
    y = multiply(torch.randn(m, k), torch.randn(k, n))  # type: ignore[operator]
    assert y.shape == (m, n) and not y.any()


def test_long_sums_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8.MAX_TERMS * 127**2 < 2**31 and int8.MAX_TERMS > 100_000
    n = int8.MAX_TERMS + 1000
    y = int8.multiply(torch.ones(2, n), torch.ones(n, 1))
    assert torch.equal(y, torch.full((2, 1), float(n)))
    monkeypatch.setattr(int8, "MAX_TERMS", 8)
    a, b = torch.randn(5, 50), torch.randn(50, 4)
    pieces = int8.multiply(a, b)
    monkeypatch.undo()
    torch.testing.assert_close(pieces, int8.multiply(a, b))


def test_an_outlier_costs_its_own_row_only_in_int8() -> None:
    a, b = torch.randn(8, 64), torch.randn(64, 8)
    spoilt = a.clone()
    spoilt[2, 5] = 1e6
    plain, outlier = int8.multiply(a, b), int8.multiply(spoilt, b)
    others = [row for row in range(8) if row != 2]
    assert torch.equal(plain[others], outlier[others])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_stay_visible(bad: float) -> None:
    a, b = torch.randn(8, 64), torch.randn(64, 8)
    a[2, 5] = bad
    y = int8.multiply(a, b)
    assert not y[2].isfinite().any() and y[3].isfinite().all()
    assert not fp8.multiply(a, b).isfinite().all()


def test_stochastic_rounding_is_right_on_average_and_nearest_is_not() -> None:
    """A row as gradients are: one large number, and many that are less than half a step."""
    row = torch.full((1, 256), 0.3 / 127)
    row[0, 0] = 1.0
    ones = torch.ones(256, 1)
    exact = float(row.double().sum())
    assert float(int8.multiply(row, ones)) == pytest.approx(1.0)  # all the small ones are lost: 0.6 of 1.6
    rng = torch.Generator().manual_seed(0)
    draws = torch.tensor(
        [float(int8.multiply(row, ones, torch.rand(1, 256, generator=rng))) for _ in range(400)]
    )
    # a draw's deviation: 255 coins of 0.3 with a step of 1/127
    deviation = math.sqrt(255 * 0.3 * 0.7) / 127
    assert abs(float(draws.mean()) - exact) < 4 * deviation / math.sqrt(400)
    assert 0.8 * deviation < float(draws.std()) < 1.2 * deviation


def test_stochastic_rounding_is_off_by_less_than_a_step() -> None:
    a, b = matrix(40, 130, 5), matrix(130, 50, 6)
    noise = torch.rand(40, 130, generator=torch.Generator().manual_seed(1))
    y, exact = int8.multiply(a, b, noise), a.double() @ b.double()
    assert ((y - exact).abs() <= int8_bound(a, b, a_step=1.0) * (1 + 1e-5)).all()
    assert ((y - exact).abs() > int8_bound(a, b) * 0).any()


def test_a_product_for_weights_is_of_numbers_rounded_to_bf16() -> None:
    a, b = matrix(40, 130, 7), matrix(130, 50, 8)
    y, exact = int8.multiply_bf16(a, b), a.double() @ b.double()
    assert y.dtype is torch.float32
    bound = (2 * 2**-8 + 2**-16 + 130 * 2**-23) * (a.double().abs() @ b.double().abs())
    assert ((y - exact).abs() <= bound).all() and (y != (a @ b)).any()
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    assert ((y - rounded).abs() <= 130 * 2**-23 * (a.double().abs() @ b.double().abs()) * 1.01).all()


@needs_cuda("8-bit products on CUDA were not tested")
@pytest.mark.parametrize("size", SIZES)
def test_products_on_cuda_equal_those_on_cpu(size: tuple[int, int, int]) -> None:
    m, k, n = size
    a, b = matrix(m, k, 3), matrix(k, n, 13)
    for multiply in (int8.multiply, fp8.multiply):
        torch.testing.assert_close(multiply(a.cuda(), b.cuda()).cpu(), multiply(a, b), rtol=1e-4, atol=1e-4)
