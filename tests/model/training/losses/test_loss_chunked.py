"""The chunked loss equals the plain one in value and gradient, and never holds all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.data.batches.batch import IGNORED
from model.training.losses.chunked import CHUNK, chunked_target_loss, mtp_loss
from tests.model.training.losses.reference_loss import target_loss

N_TOKENS, D_MODEL = 37, 8


def make_inputs(
    n_sequences: int, length: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n_sequences, length, D_MODEL, generator=rng, dtype=torch.float64).to(dtype)
    head = torch.randn(N_TOKENS, D_MODEL, generator=rng, dtype=torch.float64).to(dtype)
    targets = torch.randint(N_TOKENS, (n_sequences, length), generator=rng)
    targets = targets.masked_fill(torch.rand(targets.shape, generator=rng) < 0.3, IGNORED)
    return x.requires_grad_(), head.requires_grad_(), targets


@settings(max_examples=40, deadline=None)
@given(
    n_sequences=st.integers(1, 3),
    length=st.integers(1, 7),
    chunk=st.integers(1, 25),
    z_weight=st.sampled_from([0.0, 0.2]),
    n_targets=st.sampled_from([None, 13]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_equal_the_plain_loss(
    n_sequences: int, length: int, chunk: int, z_weight: float, n_targets: int | None, seed: int
) -> None:
    x, head, targets = make_inputs(n_sequences, length, seed)
    plain = target_loss(F.linear(x, head), targets, n_targets=n_targets, z_weight=z_weight)
    found = chunked_target_loss(x, head, targets, n_targets=n_targets, z_weight=z_weight, chunk=chunk)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-14)
    wanted = torch.autograd.grad(3 * plain, (x, head))
    for gradient, expected in zip(torch.autograd.grad(3 * found, (x, head)), wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("frozen", ["x", "head"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    x, head, targets = make_inputs(2, 5, 0)
    (x if frozen == "x" else head).requires_grad_(False)
    trained = head if frozen == "x" else x
    (wanted,) = torch.autograd.grad(target_loss(F.linear(x, head), targets), trained)
    chunked_target_loss(x, head, targets, chunk=3).backward()
    assert trained.grad is not None
    torch.testing.assert_close(trained.grad, wanted)
    assert (x if frozen == "x" else head).grad is None


def test_under_autocast_it_equals_the_plain_loss_in_bf16() -> None:
    x, head, targets = make_inputs(4, 16, 1, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = target_loss(F.linear(x, head), targets)
        found = chunked_target_loss(x, head, targets, chunk=16)
    exact = target_loss(F.linear(x, head), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=0)
    assert abs(found - exact) > 1e-5  # bf16 was at work
    wanted, found_gradients = torch.autograd.grad(plain, (x, head)), torch.autograd.grad(found, (x, head))
    for gradient, expected in zip(found_gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.9999
        torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_bf16_models_get_bf16_gradients_summed_in_fp32() -> None:
    x, head, targets = make_inputs(4, 32, 2, torch.bfloat16)
    found = torch.autograd.grad(chunked_target_loss(x, head, targets, chunk=8), (x, head))
    exact = target_loss(F.linear(x.double(), head.double()), targets)
    for gradient, expected in zip(found, torch.autograd.grad(exact, (x, head)), strict=True):
        assert gradient.dtype == torch.bfloat16
        difference = (gradient - expected).double().norm() / expected.double().norm()
        assert difference < 2**-6


@pytest.mark.parametrize("z_weight", [0.0, 0.1])
def test_positions_that_are_not_scored_have_no_influence(z_weight: float) -> None:
    x, head, targets = make_inputs(1, 6, 3)
    targets[0, 2] = IGNORED
    wild = x.detach().clone()
    wild[0, 2] = 1e30
    wild.requires_grad_()
    found = torch.autograd.grad(
        chunked_target_loss(wild, head, targets, z_weight=z_weight, chunk=4), (wild, head)
    )
    wanted = torch.autograd.grad(chunked_target_loss(x, head, targets, z_weight=z_weight, chunk=4), (x, head))
    assert all(torch.equal(gradient, expected) for gradient, expected in zip(found, wanted, strict=True))
    assert not found[0][0, 2].any()


def test_without_targets_loss_and_gradients_are_zero() -> None:
    x, head, targets = make_inputs(2, 3, 4)
    loss = chunked_target_loss(x, head, torch.full_like(targets, IGNORED))
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and not x.grad.any()


def test_a_chunk_holds_at_least_one_position() -> None:
    with pytest.raises(ValueError, match="at least one"):
        chunked_target_loss(*make_inputs(1, 2, 5), chunk=0)


class LargestTensor(TorchDispatchMode):
    """The bytes of the largest storage that any operation returned, and how many matrix products there were."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = self.n_products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.n_products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.n_bytes = max([self.n_bytes, *sizes])
        return result


def memory_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """256 positions and 2,000 tokens: the logits are by far the largest tensor, 2 MB in fp32."""
    x, head = torch.randn(4, 64, 16, requires_grad=True), torch.randn(2000, 16, requires_grad=True)
    return x, head, torch.randint(2000, (4, 64))


def test_no_tensor_is_larger_than_the_logits_of_a_chunk() -> None:
    x, head, targets = memory_inputs()
    with LargestTensor() as chunked:
        chunked_target_loss(x, head, targets, chunk=32).backward()
    with LargestTensor() as plain:
        target_loss(F.linear(x, head), targets).backward()
    assert plain.n_bytes == 256 * 2000 * 4
    assert chunked.n_bytes == 32 * 2000 * 4
    assert chunked.n_products == 3 * 256 // 32  # projection and both gradients, nothing twice


def test_predictions_further_ahead_hold_no_more_than_a_chunk_either() -> None:
    x, head = torch.randn(1, CHUNK + 100, 4, requires_grad=True), torch.randn(50, 4, requires_grad=True)
    targets = torch.randint(50, (1, CHUNK + 100))
    with LargestTensor() as seen:
        mtp_loss([x, x.detach()], head, targets).backward()
    assert seen.n_bytes == CHUNK * 50 * 4


def test_evaluation_computes_no_gradients() -> None:
    x, head, targets = memory_inputs()
    with LargestTensor() as seen, torch.no_grad():
        loss = chunked_target_loss(x, head, targets, chunk=32)
    assert seen.n_products == 256 // 32
    torch.testing.assert_close(loss, target_loss(F.linear(x, head), targets).detach())
