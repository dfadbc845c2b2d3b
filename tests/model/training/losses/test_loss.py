"""Losses on logits against sums over positions in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.data.batches.batch import IGNORED
from model.training.losses.chunked import mtp_loss
from model.training.losses.cross_entropy import (
    mtp_targets,
    next_token_loss,
    next_token_targets,
)
from tests.model.training.losses.reference_loss import target_loss


def nats(logits_V: Tensor, token: int) -> float:
    """Cross-entropy of one position."""
    values = logits_V.double().tolist()
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(v - highest) for v in values)) - values[token]


def summed_by_hand(logits_BSV: Tensor, targets_BS: Tensor) -> tuple[float, int]:
    scored = [(int(b), int(s)) for b, s in (targets_BS != IGNORED).nonzero()]
    return math.fsum(nats(logits_BSV[b, s], int(targets_BS[b, s])) for b, s in scored), len(scored)


def make_targets(n_sequences: int = 3, length: int = 6, n_tokens: int = 11, seed: int = 0) -> Tensor:
    """Random ids, every third position not scored."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.randint(n_tokens, (n_sequences, length), generator=rng)
    return targets.masked_fill(torch.rand(targets.shape, generator=rng) < 0.33, IGNORED)


def make_logits(seed: int = 1) -> Tensor:
    return 3 * torch.randn(3, 6, 11, generator=torch.Generator().manual_seed(seed))


def test_loss_is_the_mean_over_scored_positions() -> None:
    logits, targets = make_logits(), make_targets()
    total, n_targets = summed_by_hand(logits, targets)
    assert 0 < n_targets < 18
    assert target_loss(logits, targets).item() == pytest.approx(total / n_targets, rel=1e-6)
    assert target_loss(logits, targets, n_targets=100).item() == pytest.approx(total / 100, rel=1e-6)


def test_next_token_loss_is_the_loss_of_the_next_tokens_targets() -> None:
    logits, tokens = make_logits(), torch.randint(11, (3, 6))
    targets = next_token_targets(tokens)
    assert targets.shape == tokens.shape and (targets[:, -1] == IGNORED).all()
    torch.testing.assert_close(next_token_loss(logits, tokens), target_loss(logits, targets))


def test_micro_batches_with_the_common_count_add_up_to_the_whole() -> None:
    logits, targets = make_logits().requires_grad_(), make_targets()
    whole = target_loss(logits, targets)
    (wanted,) = torch.autograd.grad(whole, logits)
    n_targets = (targets != IGNORED).sum()
    parts = [target_loss(logits[i : i + 1], targets[i : i + 1], n_targets=n_targets) for i in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    (found,) = torch.autograd.grad(torch.stack(parts).sum(), logits)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("z_weight", [0.0, 0.1])
def test_without_targets_the_loss_and_its_gradient_are_zero(z_weight: float) -> None:
    logits = make_logits().requires_grad_()
    loss = target_loss(logits, torch.full((3, 6), IGNORED), z_weight=z_weight)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_z_loss_is_the_mean_squared_log_sum_exp_of_scored_positions() -> None:
    logits, targets = make_logits(), make_targets()
    scored = logits[targets != IGNORED].double()
    z = scored.exp().sum(-1).log().square().mean()
    difference = target_loss(logits, targets, z_weight=0.3) - target_loss(logits, targets)
    assert difference.item() == pytest.approx(0.3 * z.item(), rel=1e-5)


def test_low_precision_logits_are_scored_in_fp32() -> None:
    logits, targets = make_logits().bfloat16(), make_targets()
    loss = target_loss(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(target_loss(logits.double(), targets).item(), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    distance=st.integers(1, 12),
    hidden=st.sets(st.integers(0, 15), max_size=4),
)
def test_ahead_targets_are_the_tokens_further_on_in_the_same_document(
    lengths: list[int], distance: int, hidden: set[int]
) -> None:
    documents = [number for number, length in enumerate(lengths) for _ in range(length)]
    tokens = list(range(100, 100 + len(documents)))
    size = len(documents)

    def following(position: int, steps: int) -> int:
        """The token so many steps on, if it is in the same document and scored."""
        at = position + steps
        is_inside = at < size and documents[at] == documents[position]
        return tokens[at] if is_inside and at - 1 not in hidden else IGNORED

    next_targets = torch.tensor([[following(p, 1) for p in range(size)]])
    found = mtp_targets(next_targets, distance, torch.tensor([documents]))
    assert found.tolist() == [[following(p, 1 + distance) for p in range(size)]]


def test_ahead_targets_without_documents_only_end_with_the_row() -> None:
    targets = torch.tensor([[1, 2, 3, 4]])
    assert mtp_targets(targets, 1).tolist() == [[2, 3, 4, IGNORED]]
    assert mtp_targets(targets, 9).tolist() == [[IGNORED] * 4]


def test_mtp_loss_scores_module_i_on_the_token_i_plus_two_ahead() -> None:
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(3))
    modules = [make_logits(seed) for seed in (4, 5)]  # a head of ones on the diagonal leaves them as they are
    losses = []
    for i, logits in enumerate(modules):
        pairs = [nats(logits[b, p], int(tokens[b, p + i + 2])) for b in range(3) for p in range(6 - i - 2)]
        losses.append(sum(pairs) / len(pairs))
    found = mtp_loss(modules, torch.eye(11), next_token_targets(tokens))
    assert found.item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_mtp_loss_does_not_look_into_the_next_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)
    tokens = torch.randint(11, (3, 6))
    targets = next_token_targets(tokens).masked_fill(documents != documents.roll(-1, 1), IGNORED)
    logits = make_logits().requires_grad_()
    mtp_loss([logits], torch.eye(11), targets, documents_BS=documents).backward()
    assert logits.grad is not None
    used = logits.grad.abs().sum(-1) > 0
    assert used.tolist() == [[True, False, False, True, False, False]] * 3


def test_mtp_loss_without_modules_is_an_error() -> None:
    with pytest.raises(ValueError, match="n_ahead"):
        mtp_loss([], torch.eye(11), make_targets())
