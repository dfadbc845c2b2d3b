"""The fast experts by torch's operations equal the readable reference, forward and backward, in both branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.layers.moe import experts, experts_fused, experts_reference, experts_triton

pytestmark = pytest.mark.slow

# fp32 sums in another order; bf16 has 8 bits of mantissa, so one rounding of the output is 2^-8 of its size.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
# T, D, F, E, K: one token, few, many, odd sizes (no aligned rows), a single expert, more experts than tokens
SHAPES = [
    (1, 32, 48, 8, 2),
    (16, 32, 48, 8, 2),
    (512, 32, 16, 8, 3),
    (13, 33, 7, 5, 5),
    (40, 16, 8, 1, 1),
    (3, 8, 8, 64, 4),
]


@pytest.fixture(autouse=True)
def no_kernels_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have tests of their own."""
    for kernels in (experts_fused, experts_triton):
        monkeypatch.setattr(kernels, "fits", lambda *_: False)


def problem(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, usable: int | None = None
) -> list[Tensor]:
    """Seeded arguments of `apply_experts`; only the first `usable` experts are ever chosen."""
    n_tokens, d_model, d_expert, n_experts, top_k = shape
    rng = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(n_tokens, d_model, generator=rng)
    chosen = torch.rand(n_tokens, usable or n_experts, generator=rng).topk(top_k).indices
    weights = torch.rand(n_tokens, top_k, generator=rng)
    w_gate, w_up = (
        torch.randn(n_experts, d_expert, d_model, generator=rng) * d_model**-0.5 for _ in range(2)
    )
    w_down = torch.randn(n_experts, d_model, d_expert, generator=rng) * d_expert**-0.5
    return [x.to(dtype), weights, chosen, w_gate.to(dtype), w_up.to(dtype), w_down.to(dtype)]


def assert_close(fast: Tensor, reference: Tensor, dtype: torch.dtype) -> None:
    assert fast.dtype == reference.dtype and fast.shape == reference.shape
    scale = reference.float().abs().max().clamp_min(1e-6)
    assert (fast.float() - reference.float()).abs().max() / scale <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_experts_equal_the_reference_forward(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    arguments = problem(shape, dtype)
    with torch.no_grad():
        assert_close(experts.apply_experts(*arguments), experts_reference.apply_experts(*arguments), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_experts_equal_the_reference_backward(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    gradients = []
    for form in (experts, experts_reference):
        x, weights, chosen, *matrices = problem(shape, dtype)
        leaves = [tensor.requires_grad_() for tensor in (x, weights, *matrices)]
        y = form.apply_experts(x, weights, chosen, *matrices)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(dtype)
        gradients.append(torch.autograd.grad(y, leaves, direction))
    for fast, reference in zip(*gradients, strict=True):
        assert_close(fast, reference, dtype)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_branches_compute_the_same_with_empty_experts(
    monkeypatch: pytest.MonkeyPatch, grouped: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(experts, "_grouped_is_better", lambda *_: grouped)
    x, weights, chosen, *matrices = problem((64, 32, 48, 8, 2), dtype, usable=3)
    assert chosen.max() <= 2
    leaves = [tensor.requires_grad_() for tensor in matrices]
    y = experts.apply_experts(x, weights, chosen, *matrices)
    assert_close(y, experts_reference.apply_experts(x, weights, chosen, *matrices), dtype)
    for gradient in torch.autograd.grad(y.float().sum(), leaves):
        assert gradient[3:].abs().max() == 0 and gradient[:3].abs().max() > 0


def test_no_tokens_give_no_rows() -> None:
    x, weights, chosen, *matrices = problem((4, 32, 48, 8, 2), torch.float32)
    assert experts.apply_experts(x[:0], weights[:0], chosen[:0], *matrices).shape == (0, 32)


def test_a_swapped_expert_is_noticed() -> None:
    """The comparison above can fail: sending one token's choice to another expert is far outside its tolerance."""
    x, weights, chosen, *matrices = problem((16, 32, 48, 8, 2), torch.float32)
    wrong = chosen.clone()
    wrong[5, 0] = next(e for e in range(8) if e not in chosen[5].tolist())
    with pytest.raises(AssertionError):
        reference = experts_reference.apply_experts(x, weights, wrong, *matrices)
        assert_close(experts.apply_experts(x, weights, chosen, *matrices), reference, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_torch_traces_has_experts_in_every_format(dtype: torch.dtype) -> None:
    """Grouped products in fp32 have no form that it traces."""
    x, weights, chosen, *stacks = problem((16, 32, 48, 8, 2), dtype)
    traced = torch.compile(experts.apply_experts, backend="eager")
    found = traced(x, weights, chosen, *(stack.requires_grad_() for stack in stacks))
    assert_close(found, experts_reference.apply_experts(x, weights, chosen, *stacks), dtype)
