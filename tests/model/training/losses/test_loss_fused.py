"""The compiled cross-entropy equals torch's, value and gradient, at any size; ignored rows give nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.data.batches.batch import IGNORED
from model.layers.watched import torch_instead
from model.training.losses import cross_entropy_fused
from tests.needs_torch import needs_kernels

pytestmark = needs_kernels

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def rows(n: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Seeded logits with large ones among them, and targets of which the first row has none."""
    rng = torch.Generator().manual_seed(n + 31 * vocabulary)
    logits = (4 * torch.randn(n, vocabulary, generator=rng)).to(dtype)
    targets = torch.randint(0, vocabulary, (n,), generator=rng)
    targets[0] = IGNORED
    return logits, targets


def by_torch(logits: Tensor, targets: Tensor, z_weight: float) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of their sum, in fp64."""
    exact = logits.double().requires_grad_()
    losses = F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="none")
    losses = losses + z_weight * (exact.logsumexp(-1).square() * (targets != IGNORED))
    losses.sum().backward()
    assert exact.grad is not None
    return losses.detach(), exact.grad


def assert_equal(logits: Tensor, targets: Tensor, z_weight: float) -> None:
    expected, gradient = by_torch(logits, targets, z_weight)
    found = cross_entropy_fused.score_(logits, targets, z_weight=z_weight, wants_gradient=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    rtol = 1e-5 if logits.dtype is torch.float32 else 2.0**-8  # rounded once
    torch.testing.assert_close(logits.double(), gradient, rtol=rtol, atol=1e-6)


@FORMATS
@given(n=st.integers(1, 9), vocabulary=st.integers(1, 140), z_weight=st.sampled_from([0.0, 0.1]))
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_torch_s(
    dtype: torch.dtype, n: int, vocabulary: int, z_weight: float
) -> None:
    assert_equal(*rows(n, vocabulary, dtype), z_weight)


@FORMATS
def test_a_large_vocabulary(dtype: torch.dtype) -> None:
    assert_equal(*rows(3, 49_152, dtype), 0.0)


def test_without_a_gradient_logits_stay() -> None:
    logits, targets = rows(5, 33)
    before = logits.clone()
    found = cross_entropy_fused.score_(logits, targets, z_weight=0.0, wants_gradient=False)
    assert torch.equal(logits, before)
    expected, _ = by_torch(logits, targets, 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_others_or_on_threads() -> None:
    logits, targets = rows(6, 77)
    alone = logits[4:5].clone()
    losses = cross_entropy_fused.score_(alone, targets[4:5], z_weight=0.0, wants_gradient=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = cross_entropy_fused.score_(logits, targets, z_weight=0.0, wants_gradient=True)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together[4:5], losses)
    assert torch.equal(logits[4:5], alone)


def test_what_is_no_number_shows_and_ignored_rows_hide_it() -> None:
    logits, targets = rows(3, 20)
    logits[0], logits[1, 3] = torch.nan, torch.nan
    found = cross_entropy_fused.score_(logits, targets, z_weight=0.0, wants_gradient=True)
    assert found[0] == 0
    assert not logits[0].any()
    assert found[1].isnan()
    assert logits[1].isnan().all()
    assert found[2].isfinite()


@pytest.mark.parametrize("wrong", [20, -1])
def test_a_target_outside_of_the_vocabulary_is_refused_and_changes_nothing(wrong: int) -> None:
    logits, targets = rows(3, 20)
    before = logits.clone()
    targets[2] = wrong
    with pytest.raises(IndexError, match=r"not in 0 \.\. 19"):
        cross_entropy_fused.score_(logits, targets, z_weight=0.0, wants_gradient=True)
    assert torch.equal(logits, before)


def test_what_it_is_used_for() -> None:
    logits, targets = rows(3, 20)
    assert cross_entropy_fused.fits(logits, targets)
    assert not cross_entropy_fused.fits(logits.double(), targets)
    assert not cross_entropy_fused.fits(logits.mT.contiguous().mT, targets)
    assert not cross_entropy_fused.fits(logits, targets.int())
    assert not cross_entropy_fused.fits(logits.to("meta"), targets)
    with torch_instead():
        assert not cross_entropy_fused.fits(logits, targets)
