"""The compiled choice of experts equals its definition in fp64, forward and backward, at any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import native
from model.config import MoEConfig
from model.layers.moe import router_fused, router_reference
from model.layers.moe.router import Router
from model.layers.watched import torch_instead
from tests.needs_torch import needs_kernels

pytestmark = needs_kernels

TOLERANCE = 3e-6  # sums of at most 300 scores, each right to two units of 2^-24


def moe(n_experts: int, top_k: int, **changes: Any) -> MoEConfig:
    return MoEConfig(**{"d_model": 8, "d_expert": 4, "n_experts": n_experts, "top_k": top_k, **changes})


def logits(rows: int, n_experts: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, n_experts, generator=torch.Generator().manual_seed(seed))


def by_torch(logits_TE: Tensor, config: MoEConfig, experts_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and scores of given experts."""
    scores_TE = router_reference.scores(logits_TE, config)
    return router_reference.weights(scores_TE.gather(-1, experts_TK), config), scores_TE


@st.composite
def configs(draw: st.DrawFn) -> MoEConfig:
    n_experts = draw(st.integers(1, 300))
    return moe(
        n_experts,
        draw(st.integers(1, min(n_experts, 12))),
        gate=draw(st.sampled_from(["softmax", "sigmoid"])),
        normalise_top_k=draw(st.booleans()),
        routed_scale=draw(st.sampled_from([1.0, 2.5])),
        bias_balancing=draw(st.booleans()),
    )


@given(config=configs(), rows=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_choices_weights_and_gradients_are_those_of_the_definition(
    config: MoEConfig, rows: int, seed: int
) -> None:
    exact_TE = logits(rows, config.n_experts, seed).double().requires_grad_()
    logits_TE = exact_TE.detach().float().requires_grad_()
    bias_E = logits(1, config.n_experts, seed + 1)[0] if config.bias_balancing else None
    weights_TK, experts_TK, scores_TE = router_fused.route(logits_TE, config, bias_E)
    expected_TK, expected_TE = by_torch(exact_TE, config, experts_TK)

    chosen_by_TE = expected_TE.detach() + (0 if bias_E is None else bias_E.double())
    best_TK = chosen_by_TE.topk(config.top_k).values
    assert torch.allclose(
        chosen_by_TE.gather(-1, experts_TK), best_TK, rtol=TOLERANCE, atol=TOLERANCE
    )  # best first
    assert all(len(set(row)) == config.top_k for row in experts_TK.tolist())
    assert torch.allclose(weights_TK.double(), expected_TK, rtol=TOLERANCE, atol=1e-30)
    assert torch.allclose(scores_TE.double(), expected_TE, rtol=TOLERANCE, atol=1e-30)

    towards = (logits(rows, config.top_k, seed + 2), logits(rows, config.n_experts, seed + 3))
    (found,) = torch.autograd.grad((weights_TK, scores_TE), logits_TE, towards)
    (wanted,) = torch.autograd.grad((expected_TK, expected_TE), exact_TE, [t.double() for t in towards])
    largest = config.routed_scale * sum(t.abs().sum(-1, keepdim=True) for t in towards)
    assert ((found - wanted).abs() <= TOLERANCE * largest).all()


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("which", [0, 2], ids=["weights", "scores"])
def test_either_gradient_may_be_missing(gate: str, which: int) -> None:
    config = moe(20, 3, gate=gate)
    logits_TE = logits(7, 20).requires_grad_()
    routed = router_fused.route(logits_TE, config)
    towards = logits(*routed[which].shape, seed=1)
    (found,) = torch.autograd.grad(routed[which], logits_TE, towards)
    expected = by_torch(logits_TE, config, routed.experts_TK)[which // 2]
    assert torch.allclose(found, torch.autograd.grad(expected, logits_TE, towards)[0], atol=TOLERANCE)


def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads() -> None:
    config, logits_TE = moe(37, 4, gate="sigmoid"), logits(300, 37)
    whole = router_fused.route(logits_TE, config)
    for row in (0, 17, 299):
        alone = router_fused.route(logits_TE[row : row + 1], config)
        assert all(torch.equal(one[0], all_[row]) for one, all_ in zip(alone, whole, strict=True))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, router_fused.route(logits_TE, config), whole))
    finally:
        torch.set_num_threads(threads)


def test_of_equal_scores_the_lower_experts_are_chosen() -> None:
    for n_experts in (5, 16, 70):
        routed = router_fused.route(torch.zeros(2, n_experts), moe(n_experts, 5))
        assert routed.experts_TK.tolist() == 2 * [[0, 1, 2, 3, 4]]
        assert routed.weights_TK.flatten().tolist() == pytest.approx(10 * [0.2], rel=1e-6)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_a_number_that_is_none_stays_in_its_row(gate: str) -> None:
    config, logits_TE = moe(40, 6, gate=gate), logits(3, 40)
    whole = router_fused.route(logits_TE, config)
    logits_TE[1, 7] = torch.nan
    routed = router_fused.route(logits_TE, config)
    for row in (0, 2):
        assert all(torch.equal(one[row], other[row]) for one, other in zip(routed, whole, strict=True))
    assert routed.weights_TK[1].isnan().any() and routed.scores_TE[1, 7].isnan()
    assert len(set(routed.experts_TK[1].tolist())) == 6 and int(routed.experts_TK[1].max()) < 40
    if gate == "sigmoid":
        assert int(routed.experts_TK[1, 0]) == 7  # the best, as torch has it


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_experts_that_are_barred_score_nothing(gate: str) -> None:
    logits_TE = logits(4, 33)
    logits_TE[:, 5:] = -torch.inf
    routed = router_fused.route(logits_TE, moe(33, 5, gate=gate))
    assert torch.equal(routed.scores_TE[:, 5:], torch.zeros(4, 28))
    assert sorted(routed.experts_TK[0].tolist()) == [0, 1, 2, 3, 4]


def test_gradients_have_gradients() -> None:
    config = moe(9, 3, routed_scale=2.0)

    def twice(route: Any) -> Tensor:
        logits_TE = logits(5, 9).requires_grad_()
        weights_TK, scores_TE = route(logits_TE)
        loss = (weights_TK * logits(5, 3, seed=1)).sum() + scores_TE.square().sum()
        (gradient,) = torch.autograd.grad(loss, logits_TE, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), logits_TE)[0]

    experts_TK = router_fused.route(logits(5, 9), config).experts_TK
    found = twice(lambda logits_TE: router_fused.route(logits_TE, config)[::2])
    assert torch.allclose(found, twice(lambda logits_TE: by_torch(logits_TE, config, experts_TK)), atol=1e-5)


def test_no_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        router_fused_forward = router_fused_backward = staticmethod(lambda call: 2)

    monkeypatch.setattr(native, "library", Library)
    with pytest.raises(MemoryError, match="no memory to route 4 tokens: pass fewer"):
        router_fused.route(logits(4, 5), moe(5, 1))


def test_what_the_kernel_does_not_know_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    config, logits_TE, bias_E = moe(12, 2), logits(3, 12), torch.zeros(12)
    assert router_fused.fits(logits_TE, config, bias_E)
    assert not router_fused.fits(logits_TE.double(), config) and not router_fused.fits(
        logits_TE.to("meta"), config
    )
    assert not router_fused.fits(logits_TE, config, bias_E.double()) and not router_fused.fits(
        logits_TE[:0], config
    )
    assert not router_fused.fits(logits_TE, moe(12, 2, n_groups=3, top_groups=1))
    with torch_instead():
        assert not router_fused.fits(logits_TE, config)
    monkeypatch.setattr(router_fused, "_has_kernels", lambda: False)
    assert not router_fused.fits(logits_TE, config)


@pytest.mark.parametrize(
    "changes", [{}, {"gate": "sigmoid", "bias_balancing": True}], ids=["softmax", "sigmoid"]
)
def test_a_router_uses_it_and_answers_as_with_torch(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    router, x_TD = Router(moe(24, 4, **changes)), torch.randn(50, 8)
    if router.bias is not None:
        router.bias.normal_(std=0.3)
    with torch_instead():
        weights_TK, experts_TK = router(x_TD)
    calls: list[MoEConfig] = []
    run = router_fused._run
    monkeypatch.setattr(
        router_fused,
        "_run",
        lambda direction, config, *args, **arrays: (
            calls.append(config) or run(direction, config, *args, **arrays)
        ),
    )
    routing = router(x_TD)
    assert calls == [router.config]
    assert torch.equal(routing.experts_TK, experts_TK)
    assert torch.allclose(routing.weights_TK, weights_TK, rtol=1e-6)
