"""Routers against a plain loop in double precision, and in reduced precision, under autocast and at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ConfigError, MoEConfig
from model.layers.moe.router import Router, Scores

D_MODEL = 16


def make_router(seed: int = 0, **changes: Any) -> Router:
    """With weights, and a bias where there is one, that are far from trivial."""
    torch.manual_seed(seed)
    config = MoEConfig(**{"d_model": D_MODEL, "d_expert": 4, "n_experts": 12, "top_k": 3, **changes})
    router = Router(config)
    with torch.no_grad():
        router.weight.normal_(std=0.5)
        if router.bias is not None:
            router.bias.normal_(std=0.3)
    return router


def routed_by_hand(router: Router, x_D: Tensor) -> dict[int, float]:
    """One token's experts and weights as the papers define them, in Python's floats."""
    config = router.config
    logits = [
        math.fsum(w * x for w, x in zip(row, x_D.tolist(), strict=True)) for row in router.weight.tolist()
    ]
    if config.gate == "sigmoid":
        scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    else:
        total = math.fsum(map(math.exp, logits))
        scores = [math.exp(logit) / total for logit in logits]
    bias = router.bias.tolist() if router.bias is not None else [0.0] * config.n_experts
    chosen_by = [score + shift for score, shift in zip(scores, bias, strict=True)]
    size = config.n_experts // config.n_groups
    groups = [range(start, start + size) for start in range(0, config.n_experts, size)]
    n_best = 1 if config.group_score == "max" else 2
    groups.sort(
        key=lambda group: sum(sorted((chosen_by[e] for e in group), reverse=True)[:n_best]), reverse=True
    )
    reachable = [e for group in groups[: config.top_groups] for e in group]
    chosen = sorted(reachable, key=lambda e: chosen_by[e], reverse=True)[: config.top_k]
    divisor = math.fsum(scores[e] for e in chosen) if config.normalise_top_k else 1.0
    return {e: config.routed_scale * scores[e] / divisor for e in chosen}


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    n_groups = draw(st.integers(1, 4))
    size = draw(st.integers(2, 4))
    top_groups = draw(st.integers(1, n_groups))
    return {
        "n_experts": n_groups * size,
        "n_groups": n_groups,
        "top_groups": top_groups,
        "top_k": draw(st.integers(1, top_groups * size)),
        "gate": draw(st.sampled_from(["softmax", "sigmoid"])),
        "group_score": draw(st.sampled_from(["max", "top2"])),
        "normalise_top_k": draw(st.booleans()),
        "bias_balancing": draw(st.booleans()),
        "routed_scale": draw(st.sampled_from([1.0, 2.5])),
    }


@settings(max_examples=60, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 1000))
def test_every_kind_of_router_equals_the_formulas(shape: dict[str, Any], seed: int) -> None:
    router = make_router(seed, **shape).double()
    x = torch.randn(5, D_MODEL, dtype=torch.float64)
    weights, chosen = router(x)
    assert weights.dtype == torch.float64
    for x_D, weights_K, chosen_K in zip(x, weights.tolist(), chosen.tolist(), strict=True):
        expected = routed_by_hand(router, x_D)
        assert chosen_K == list(expected)  # best first
        assert weights_K == pytest.approx(list(expected.values()), rel=1e-12)


def test_scores_are_those_before_bias_groups_and_scale() -> None:
    router = make_router(gate="sigmoid", bias_balancing=True, n_groups=4, top_groups=2, routed_scale=3.0)
    x = torch.randn(7, D_MODEL)
    routing, scores = router(x, return_scores=True)
    assert isinstance(scores, Scores)
    assert torch.equal(scores.logits_TE, x @ router.weight.T)
    assert torch.equal(scores.scores_TE, scores.logits_TE.sigmoid())
    for one, other in zip(routing, router(x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "change", [{}, {"gate": "sigmoid", "bias_balancing": True, "n_groups": 3, "top_groups": 2}]
)
def test_autocast_does_not_reach_the_router(change: dict[str, Any]) -> None:
    router, x = make_router(**change), torch.randn(50, D_MODEL)
    expected, _ = router(x, return_scores=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing, scores = router(x, return_scores=True)
        assert (x @ router.weight.T).dtype == torch.bfloat16  # it is on
    assert scores.logits_TE.dtype == routing.weights_TK.dtype == torch.float32
    assert torch.equal(routing.weights_TK, expected.weights_TK)
    assert torch.equal(routing.experts_TK, expected.experts_TK)


def test_gradients_reach_weights_and_inputs_under_autocast_as_without() -> None:
    router = make_router(normalise_top_k=False)
    x = torch.randn(20, D_MODEL, requires_grad=True)
    direction = torch.randn(20, 3)
    wanted = torch.autograd.grad((router(x).weights_TK * direction).sum(), (x, router.weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (router(x).weights_TK * direction).sum()
    for gradient, expected in zip(torch.autograd.grad(loss, (x, router.weight)), wanted, strict=True):
        assert torch.equal(gradient, expected)


def test_gradients_of_limited_and_biased_weights_are_right() -> None:
    router = make_router(
        gate="sigmoid", bias_balancing=True, n_groups=4, top_groups=2, group_score="top2"
    ).double()
    x = torch.randn(4, D_MODEL, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: router(x).weights_TK, (x,))


def test_the_bias_stays_fp32_when_the_model_is_cast_to_less() -> None:
    router = make_router(bias_balancing=True)
    assert router.bias is not None
    before = router.bias.clone()
    for cast in (router.bfloat16, router.half, lambda: router.to(torch.bfloat16)):
        cast()
        assert router.bias.dtype == torch.float32 and torch.equal(router.bias, before)
    assert router.weight.dtype == torch.bfloat16
    assert set(router.state_dict()) == {"weight", "bias"}
    assert router.double().bias is not None and router.bias.dtype == torch.float64
    assert router.to("meta").bias is not None and router.bias.device.type == "meta"


def test_small_steps_move_a_bias_that_bf16_would_swallow() -> None:
    router = make_router(bias_balancing=True).bfloat16()
    assert router.bias is not None
    router.bias.fill_(1.0)
    router.balance(torch.arange(12), rate=1e-3)
    moved = [1.001] * 6 + [0.999] * 6
    assert router.bias.tolist() == pytest.approx(moved, abs=1e-6)


def test_negative_biases_do_not_lead_out_of_the_best_groups() -> None:
    """Masked by zero instead of minus infinity, an expert out of reach would win against all within."""
    router = make_router(gate="sigmoid", bias_balancing=True, n_groups=3, top_groups=1, group_score="top2")
    assert router.bias is not None
    router.bias.fill_(-5.0)
    _, chosen = router(torch.randn(40, D_MODEL))
    groups = chosen // 4
    assert (groups == groups[:, :1]).all() and len(groups.unique()) == 3


def test_scores_that_underflow_leave_weights_of_zero() -> None:
    router = make_router(gate="sigmoid")
    router.weight.data.fill_(-100.0)
    weights, _ = router(torch.ones(2, D_MODEL))
    assert torch.equal(weights, torch.zeros(2, 3))


def test_two_best_experts_need_groups_of_two() -> None:
    with pytest.raises(ConfigError, match="at least two experts"):
        make_router(n_groups=12, top_groups=6, group_score="top2")
