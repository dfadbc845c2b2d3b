"""Capacity against a loop over tokens in order; dropped pairs add nothing, forward or backward."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe import experts_reference, metrics
from model.layers.moe.capacity import apply_within_capacity, expert_capacity, within_capacity
from model.layers.moe.layer import MoELayer


def make_config(**changes: Any) -> MoEConfig:
    return MoEConfig(
        **{"d_model": 16, "d_expert": 8, "n_experts": 6, "top_k": 2, "capacity_factor": 1.0, **changes}
    )


def make_layer(**changes: Any) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(make_config(**changes))


def kept_in_order(experts: list[list[int]], capacity: int) -> list[list[bool]]:
    """Tokens queue in order and each takes its places if there are any."""
    taken: Counter[int] = Counter()
    kept: list[list[bool]] = []
    for choices in experts:
        kept.append([taken[e] < capacity for e in choices])
        taken.update(choices)
    return kept


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.lists(st.permutations(range(5)), max_size=20),
    top_k=st.integers(1, 4),
    capacity=st.integers(0, 9),
)
def test_the_first_tokens_get_the_places(tokens: list[list[int]], top_k: int, capacity: int) -> None:
    experts = [list(token[:top_k]) for token in tokens]
    kept = within_capacity(torch.tensor(experts, dtype=torch.int64).view(-1, top_k), 5, capacity)
    assert kept.tolist() == kept_in_order(experts, capacity)


@example(hundredths=10, n_tokens=12, top_k=5)  # 0.1 * 12 * 5 / 6 is above 1 in floating point
@given(hundredths=st.integers(1, 400), n_tokens=st.integers(0, 5000), top_k=st.integers(1, 6))
def test_capacity_is_rounded_up_and_not_by_rounding_errors(
    hundredths: int, n_tokens: int, top_k: int
) -> None:
    exact = ceil(Fraction(hundredths, 100) * n_tokens * top_k / 6)
    assert expert_capacity(n_tokens, make_config(top_k=top_k, capacity_factor=hundredths / 100)) == exact


def test_a_dropless_layer_has_no_capacity() -> None:
    with pytest.raises(ValueError, match="dropless"):
        expert_capacity(10, make_config(capacity_factor=None))


def masked_sum(layer: MoELayer, x: Tensor) -> tuple[Tensor, int]:
    """Every expert on every token, with weight zero for what is dropped; and the number of dropped pairs."""
    weights, chosen = layer.router(x)
    capacity = expert_capacity(len(x), layer.config)
    kept = torch.tensor(kept_in_order(chosen.tolist(), capacity))
    y = experts_reference.apply_experts(x, weights * kept, chosen, *layer.experts.parameters())
    return y, int((~kept).sum())


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.3])
def test_dropped_pairs_contribute_nothing_forward_or_backward(factor: float) -> None:
    layer = make_layer(capacity_factor=factor).train()
    x = (torch.randn(30, 16) + layer.router.weight[0].detach()).requires_grad_()
    metrics.watch(layer)
    expected, n_dropped = masked_sum(layer, x)
    direction, inputs = torch.randn(30, 16), (x, *layer.parameters())
    y = layer(x)
    torch.testing.assert_close(y, expected)
    for gradient, wanted in zip(
        torch.autograd.grad((y * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    assert 0 < n_dropped < 60
    assert metrics.collect(layer)[""].dropped_share == pytest.approx(n_dropped / 60)


def test_a_token_that_loses_all_its_choices_keeps_the_shared_experts() -> None:
    layer = make_layer(n_shared=1, capacity_factor=1e-3).train()  # one place per expert
    assert layer.shared is not None
    row = torch.randn(1, 16)
    y = layer(row.repeat(4, 1))
    torch.testing.assert_close(y[1:], layer.shared(row).expand(3, -1))
    assert not torch.allclose(y[0], y[1])


def test_only_kept_pairs_are_computed() -> None:
    rows: list[int] = []

    def count(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        rows.append(experts.numel())
        return x * weights.sum(-1, keepdim=True)

    x, weights, experts = torch.randn(4, 3), torch.rand(4, 2), torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0]])
    kept = within_capacity(experts, 3, 2)
    y, n_dropped = apply_within_capacity(count, x, weights, experts, kept)
    assert rows == [6] and n_dropped == 2
    torch.testing.assert_close(y, x * (weights * kept).sum(-1, keepdim=True))


def test_ample_capacity_drops_nothing_and_equals_the_dropless_layer_to_the_bit() -> None:
    bounded, dropless = make_layer(capacity_factor=6.0).train(), make_layer(capacity_factor=None).train()
    x = torch.randn(20, 16)
    assert torch.equal(bounded(x), dropless(x))


def test_bf16_pairs_are_summed_in_fp32() -> None:
    """As without capacity: the answer is one rounding away from the sum of the rounded pairs."""
    layer = make_layer(capacity_factor=1.0, top_k=4).train().bfloat16()
    x = torch.randn(40, 16).bfloat16()
    weights, chosen = layer.router(x)
    kept = within_capacity(chosen, 6, expert_capacity(40, layer.config))
    ones = torch.ones(40, 1)
    pairs = [layer.experts(x, ones, chosen[:, k : k + 1]).double() for k in range(4)]
    expected = sum(pair * (weights * kept)[:, k, None].double() for k, pair in enumerate(pairs))
    assert isinstance(expected, Tensor)
    is_equal = layer(x) == expected.bfloat16()
    assert is_equal.double().mean() > 0.95


def test_inference_drops_nothing() -> None:
    layer = make_layer(capacity_factor=0.2)
    x = torch.randn(30, 16)
    assert not torch.allclose(layer.train()(x), layer.eval()(x))
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone)


def test_an_empty_batch_passes() -> None:
    assert make_layer().train()(torch.randn(0, 16)).shape == (0, 16)
