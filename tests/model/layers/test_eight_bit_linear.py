"""The 8-bit linear map: gradients against fp64, dtypes, autocast, and what it draws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ConfigError
from model.layers.quantisation.fp8 import FP8
from model.layers.quantisation.int8 import Int8
from model.layers.quantisation.linear import Arithmetic, arithmetic_of, eight_bit_linear

ARITHMETICS = [Int8(), Int8(stochastic=False), FP8()]
# Relative error of a product of normal matrices. int8: the largest of 64 to 1000 normals is 2.5 to 3.3 deviations, a
# step 1/127 of it, the rounding error step / sqrt(12) each (stochastic: step / sqrt(6)), two operands: up to 1.3 %
# and 1.7 %. e4m3 rounds by 2^-4 at most, 2.6 % rms, e5m2 twice that: 3.7 % and 5.8 %.
FORWARD_ERROR = {"Int8": 0.013, "FP8": 0.04}
BACKWARD_ERROR = {"Int8": 0.018, "FP8": 0.065}


def problem(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [4, 25, 72], w [56, 72], bias [56] and a gradient of the output."""
    rng = torch.Generator().manual_seed(seed)
    x, w = torch.randn(4, 25, 72, generator=rng), torch.randn(56, 72, generator=rng) * 72**-0.5
    bias, g = torch.randn(56, generator=rng), torch.randn(4, 25, 56, generator=rng)
    return (*(leaf.to(dtype).requires_grad_() for leaf in (x, w, bias)), g.to(dtype))  # type: ignore[return-value]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def cosine(found: Tensor, exact: Tensor) -> float:
    return float(F.cosine_similarity(found.double().flatten(), exact.flatten(), dim=0))


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_those_of_fp64_within_the_formats_error(
    arithmetic: Arithmetic, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    x, w, bias, g = problem(dtype=dtype)
    y = eight_bit_linear(x, w, bias, arithmetic)
    gradients = torch.autograd.grad(y, (x, w, bias), g)
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in (x, w, bias)]
    exact = F.linear(*exact_leaves)
    exact_gradients = torch.autograd.grad(exact, exact_leaves, g.double())
    kind = type(arithmetic).__name__
    assert y.dtype is dtype and y.shape == (4, 25, 56)
    assert 0 < error(y, exact) < FORWARD_ERROR[kind]
    for leaf, found, expected in zip((x, w, bias), gradients, exact_gradients, strict=True):
        assert found.dtype is leaf.dtype and found.shape == leaf.shape
        assert error(found, expected) < BACKWARD_ERROR[kind]
        assert cosine(found, expected) > 1 - BACKWARD_ERROR[kind] ** 2


def test_int8_gradients_with_noise_are_right_on_average() -> None:
    """Many draws of one gradient come closer to the exact one than a draw, and than nearest rounding."""
    torch.manual_seed(2)
    x, w, _, g = problem()
    g = g * torch.cat((torch.tensor([60.0]), torch.ones(55)))  # one large output: the others are near a step
    exact = g.double() @ w.detach().double()

    def input_gradient(arithmetic: Arithmetic) -> Tensor:
        (gradient,) = torch.autograd.grad(eight_bit_linear(x, w, None, arithmetic), x, g)
        return gradient

    draws = torch.stack([input_gradient(Int8()) for _ in range(64)])
    assert not torch.equal(draws[0], draws[1])
    weight_error = error(g.reshape(-1, 56) @ _rounded(w.detach(), dim=0), exact.reshape(-1, 72))
    one, many, nearest = (
        error(draws[0], exact),
        error(draws.mean(0), exact),
        error(input_gradient(Int8(False)), exact),
    )
    assert many < 0.4 * one and many < 0.6 * nearest
    assert (
        many < 1.5 * weight_error + one / 8
    )  # what is left is the weight's rounding and 1/sqrt(64) of the noise


def _rounded(w: Tensor, dim: int) -> Tensor:
    scale = w.abs().amax(dim, keepdim=True) / 127
    return (w / scale).round() * scale


def test_equal_seeds_draw_equal_gradients_and_forward_draws_nothing() -> None:
    x, w, _, g = problem()
    gradients = []
    for _ in range(2):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        y = eight_bit_linear(x, w, None, Int8())
        assert torch.equal(before, torch.get_rng_state())  # checkpointed blocks compute forward twice
        gradients.append(torch.autograd.grad(y, (x, w), g))
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_autocast_decides_the_outputs_dtype_and_masters_keep_theirs(arithmetic: Arithmetic) -> None:
    x, w, bias, _ = problem()
    with torch.autocast("cpu", torch.bfloat16):
        y = eight_bit_linear(x, w, bias, arithmetic)
    assert y.dtype is torch.bfloat16
    gradients = torch.autograd.grad(y.float().sum(), (x, w, bias))
    assert all(gradient.dtype is torch.float32 for gradient in gradients)


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_only_asked_for_gradients_are_computed(
    arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, _, g = problem()
    kind = type(arithmetic)
    for leaf, other in ((x, "weight_gradient"), (w, "input_gradient")):
        frozen = w if leaf is x else x
        with monkeypatch.context() as patch:
            patch.setattr(kind, other, lambda *_: pytest.fail("a gradient that nobody asked for"))
            inputs = (x, frozen.detach()) if leaf is x else (frozen.detach(), w)
            (gradient,) = torch.autograd.grad(eight_bit_linear(*inputs, None, arithmetic), leaf, g)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_zero_rows_outliers_and_no_rows_at_all(arithmetic: Arithmetic) -> None:
    x, w, _, g = problem()
    with torch.no_grad():
        x[0, :5] = 0
        x[1, 0, 0] = 1e4
    y = eight_bit_linear(x, w, None, arithmetic)
    gradients = torch.autograd.grad(y, (x, w), g * 0)
    assert not y[0, :5].any() and y.isfinite().all()
    assert all(not gradient.any() for gradient in gradients)
    empty = eight_bit_linear(x[:0], w, None, arithmetic)
    assert empty.shape == (0, 25, 56)
    assert not torch.autograd.grad(empty.sum(), w)[0].any()


def test_what_is_saved_for_backward_is_no_copy() -> None:
    x, w, _, _ = problem()
    pointers: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: pointers.add(t.data_ptr()) or t, lambda t: t):
        eight_bit_linear(x, w, None, Int8())
    assert pointers == {x.data_ptr(), w.data_ptr()}


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"int8, fp8, not 'int4'"):
        arithmetic_of("int4")


def test_a_device_without_fp8_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert "int8 or bf16" in str(FP8().refusal(torch.device("cuda")))
    assert FP8().refusal(torch.device("cpu")) is None and Int8().refusal(torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert FP8().refusal(torch.device("cuda")) is None
