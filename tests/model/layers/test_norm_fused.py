"""The compiled norms and rotations equal their definition in fp64, forward and backward, at any shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

from model.config import ModelConfig
from model.layers import norm_fused
from model.layers.attention.gqa import Attention
from model.layers.attention.rotary import Rotary, Rotation, rotate
from model.layers.norm import RMSNorm
from model.layers.watched import torch_instead
from tests.model.random_models import SMALL, randomise
from tests.needs_torch import needs_kernels

pytestmark = needs_kernels

EPS = 1e-6
FP32 = 2e-5  # of the largest that a sum's terms can be: more than its up to 300 roundings of 2^-24
FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


class Problem:
    """Seeded rows [B, S, H, C], weights, rotations of S positions, and the direction that answers are differentiated in."""

    def __init__(self, batch: int, length: int, heads: int, width: int, dtype: torch.dtype) -> None:
        rng = torch.Generator().manual_seed(batch + 7 * length + 11 * heads + 13 * width)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng)

        self.x = normal(batch, length, heads, width).to(dtype)
        self.x[0, 0] = 0  # a row without a direction
        self.weight = normal(width)
        self.rotation = Rotation(normal(length, width), normal(length, width))
        self.direction = normal(batch, length, heads, width)

    def answers(self, apply: Callable[[Tensor, Tensor], Tensor], *, exact: bool = False) -> list[Tensor]:
        """y, and the gradients of x and, where it counts, of the weight."""
        leaves = [t.double() if exact else t.clone() for t in (self.x, self.weight)]
        x, weight = (leaf.requires_grad_() for leaf in leaves)
        y = apply(x, weight)
        y.backward(self.direction.to(y.dtype))
        return [y.detach(), *(leaf.grad for leaf in (x, weight) if leaf.grad is not None)]

    def turn(self, x: Tensor) -> Tensor:
        return rotate(x, Rotation(self.rotation.cos.to(x.dtype), self.rotation.sin.to(x.dtype)))

    def bounds(self, *, is_normed: bool, is_turned: bool) -> list[Tensor]:
        """For y and both gradients how large the terms of their sums can be."""
        width = self.x.shape[-1]
        cos, sin, _ = self.rotation
        turn = (cos.abs().max() + sin.abs().max()) if is_turned else torch.tensor(1.0)
        towards = self.direction.abs().max() * turn
        if not is_normed:
            return [self.x.abs().max().float() * turn, towards]
        scale = (self.x.double().square().mean(-1, keepdim=True) + EPS).rsqrt()
        largest = self.weight.abs().max()
        n_rows = self.x.numel() // width
        return [
            width**0.5 * largest * turn,
            scale * towards * largest * (1 + width**0.5),
            n_rows * towards * width**0.5,
        ]


def norm_of(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


def assert_close(problem: Problem, dtype: torch.dtype, *, is_normed: bool, is_turned: bool) -> None:
    def compiled(x: Tensor, weight: Tensor) -> Tensor:
        if not is_turned:
            return norm_fused.normed(x, weight, EPS, dtype)
        return norm_fused.turned(x, problem.rotation, dtype, weight if is_normed else None, EPS)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        x = norm_of(x, weight) if is_normed else x
        return problem.turn(x) if is_turned else x

    if dtype is torch.bfloat16:
        problem.direction = problem.direction.bfloat16().float()
    found, expected = problem.answers(compiled), problem.answers(exact, exact=True)
    bounds = problem.bounds(is_normed=is_normed, is_turned=is_turned)
    assert found[0].dtype is dtype and found[1].dtype is problem.x.dtype
    for one, other, bound in zip(found, expected, bounds, strict=True):
        rounding = 0.0 if one.dtype is torch.float32 else 2.0**-8
        assert ((one.double() - other).abs() <= FP32 * bound + rounding * other.abs()).all()


@FORMATS
@pytest.mark.parametrize("answer", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("is_normed", "is_turned"), [(True, False), (False, True), (True, True)], ids=["normed", "turned", "both"]
)
@given(batch=st.integers(1, 3), length=st.integers(1, 40), heads=st.integers(1, 3), half=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_values_and_gradients_are_those_of_the_definition(
    dtype: torch.dtype,
    answer: torch.dtype,
    is_normed: bool,
    is_turned: bool,
    batch: int,
    length: int,
    heads: int,
    half: int,
) -> None:
    problem = Problem(batch, length, heads, 2 * half, dtype)
    assert_close(problem, answer, is_normed=is_normed, is_turned=is_turned)


def test_rows_of_odd_width_are_normed() -> None:
    for width in (1, 3, 17, 95):
        problem = Problem(2, 5, 1, width, torch.float32)
        assert_close(problem, torch.float32, is_normed=True, is_turned=False)


def test_each_sequence_may_have_positions_of_its_own() -> None:
    problem = Problem(3, 7, 2, 16, torch.float32)
    each = [
        Problem(1, 7, 2, 16, torch.float32).rotation,
        problem.rotation,
        Problem(2, 7, 2, 16, torch.float32).rotation,
    ]
    together = Rotation(torch.stack([r.cos for r in each]), torch.stack([r.sin for r in each]))
    y_BSHC = norm_fused.turned(problem.x, together, torch.float32)
    for row, rotation in enumerate(each):
        assert torch.equal(y_BSHC[row], norm_fused.turned(problem.x[row], rotation, torch.float32))


@FORMATS
def test_no_number_depends_on_threads(dtype: torch.dtype) -> None:
    problem, before = Problem(2, 130, 3, 24, dtype), torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append(
                problem.answers(lambda x, weight: norm_fused.turned(x, problem.rotation, dtype, weight, EPS))
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


def test_rows_that_do_not_lie_together_are_taken_as_they_are() -> None:
    problem = Problem(2, 6, 4, 16, torch.float32)
    apart = problem.x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not apart.is_contiguous()
    for x in (problem.x, apart):
        found = norm_fused.turned(x, problem.rotation, torch.float32, problem.weight, EPS)
        assert torch.equal(
            found, norm_fused.turned(problem.x, problem.rotation, torch.float32, problem.weight, EPS)
        )


@FORMATS
@pytest.mark.parametrize(
    ("is_normed", "is_turned"), [(True, False), (False, True), (True, True)], ids=["normed", "turned", "both"]
)
def test_gradients_have_gradients(dtype: torch.dtype, is_normed: bool, is_turned: bool) -> None:
    problem = Problem(2, 6, 4, 16, dtype)
    problem.x[0, 0] = 1

    def compiled(x: Tensor, weight: Tensor) -> Tensor:
        if not is_turned:
            return norm_fused.normed(x.transpose(1, 2), weight, EPS).transpose(1, 2)
        return norm_fused.turned(x, problem.rotation, torch.float32, weight if is_normed else None, EPS)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        x = norm_of(x, weight) if is_normed else x
        return problem.turn(x) if is_turned else x

    def second(apply: Callable[[Tensor, Tensor], Tensor], to: torch.dtype | None) -> tuple[Tensor, ...]:
        x, weight = (t.detach().to(to or t.dtype).requires_grad_() for t in (problem.x, problem.weight))
        # Another way to x beside it: without second derivatives autograd would leave this one out, unsaid.
        y = apply(x, weight) + x.square()
        (first,) = torch.autograd.grad((y * problem.direction).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight), allow_unused=not is_normed)

    found, expected = second(compiled, None), second(exact, torch.float64)
    for one, other in zip(found[: 1 + is_normed], expected, strict=False):
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        assert (one.double() - other).norm() <= tolerance * other.norm()


def test_a_number_that_is_none_stays_in_its_row() -> None:
    problem = Problem(1, 4, 1, 20, torch.float32)
    problem.x[0, 2, 0, 5] = torch.nan
    y = norm_fused.normed(problem.x, problem.weight, EPS)
    assert y[0, 2].isnan().all() and y[0, [0, 1, 3]].isfinite().all()


def test_what_it_is_used_for(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(1, 4, 2, 16, torch.float32)
    x, weight, rotation = problem.x, problem.weight, problem.rotation
    assert norm_fused.fits(x, weight, rotation) and norm_fused.fits(x.bfloat16(), weight)
    assert not norm_fused.fits(x.double(), weight) and not norm_fused.fits(x, weight.bfloat16())
    assert not norm_fused.fits(x, None, rotation._replace(is_interleaved=True))
    assert not norm_fused.fits(x, None, rotation._replace(cos=rotation.cos.bfloat16()))
    assert not norm_fused.fits(x.to("meta"), weight) and not norm_fused.fits(x[:0], weight)
    with torch_instead():
        assert not norm_fused.fits(x, weight)
    with forward_ad.dual_level():
        assert not norm_fused.fits(x, weight)
    monkeypatch.setattr(norm_fused, "_has_kernels", lambda: False)
    assert not norm_fused.fits(x, weight)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, qk_norm="head"),
        replace(SMALL, qk_norm="all"),
        replace(SMALL, qk_norm="head", qkv_clip=0.8),
        replace(SMALL, rope_interleaved=True),
    ],
    ids=["plain", "norm per head", "norm over all heads", "clipped", "interleaved"],
)
@pytest.mark.parametrize("is_autocast", [False, True])
def test_modules_answer_with_it_as_without(config: ModelConfig, is_autocast: bool) -> None:
    torch.manual_seed(0)
    norm, attention = RMSNorm(config.d_model, EPS), Attention(config)
    randomise(norm), randomise(attention)
    x_BSD = torch.randn(2, 9, config.d_model)
    rotation = Rotary.of(config).at(torch.arange(9), torch.float32)

    def answers() -> list[Tensor]:
        x = x_BSD.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            y = attention(norm(x), rotation)
        leaves = [x, *norm.parameters(), *attention.parameters()]
        return [y.float(), *torch.autograd.grad(y.float().square().sum(), leaves)]

    found = answers()
    with torch_instead():
        expected = answers()
    tolerance = 0.05 if is_autocast else 1e-5
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()
