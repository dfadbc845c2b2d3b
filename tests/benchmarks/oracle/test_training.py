"""Gradients and steps written by hand against torch's automatic differentiation in double precision.

The torch form below is a third reading of the definitions: it shares no code with `model/` nor with the oracle.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.oracle import moe, transformer
from benchmarks.oracle.decoder_backward import backward, forward, next_token_loss, routing_margins
from benchmarks.oracle.moe_backward import moe_backward
from benchmarks.oracle.training import Recipe, Training, clipped, gradient_norm
from benchmarks.oracle.transformer import DecoderConfig

CONFIG = DecoderConfig(n_layers=3, n_heads=4, n_kv_heads=2, d_head=6, top_k=2, rope_theta=100.0)
RECIPE = Recipe(learning_rate=1e-2, beta1=0.9, beta2=0.95, eps=1e-6, weight_decay=0.1, clip_norm=1.0)
WIDTH, IDS, FFN, EXPERTS, SHARED = 20, 37, 14, 5, 10

Weights = dict[str, np.ndarray]


def moe_weights(rng: np.random.Generator, shared: bool = True) -> Weights:
    shapes = {
        "router.weight": (EXPERTS, WIDTH),
        "experts.w_gate": (EXPERTS, FFN, WIDTH),
        "experts.w_up": (EXPERTS, FFN, WIDTH),
        "experts.w_down": (EXPERTS, WIDTH, FFN),
    }
    if shared:
        shapes |= {"shared.w_gate": (SHARED, WIDTH), "shared.w_up": (SHARED, WIDTH)}
        shapes |= {"shared.w_down": (WIDTH, SHARED)}
    return {name: rng.standard_normal(shape) * shape[-1] ** -0.5 for name, shape in shapes.items()}


def decoder_weights(rng: np.random.Generator, *, tied: bool = True) -> Weights:
    """Layer 0 is dense, the others are MoE."""
    weights = {"embedding": rng.standard_normal((IDS, WIDTH)), "norm.weight": 1 + rng.random(WIDTH)}
    if not tied:
        weights["head"] = rng.standard_normal((IDS, WIDTH))
    wide, narrow = CONFIG.n_heads * CONFIG.d_head, CONFIG.n_kv_heads * CONFIG.d_head
    for layer in range(CONFIG.n_layers):
        own = {
            "attention_norm.weight": 1 + rng.random(WIDTH),
            "ffn_norm.weight": 1 + rng.random(WIDTH),
            "attention.w_q": rng.standard_normal((wide, WIDTH)) * 0.3,
            "attention.w_k": rng.standard_normal((narrow, WIDTH)) * 0.3,
            "attention.w_v": rng.standard_normal((narrow, WIDTH)) * 0.3,
            "attention.w_o": rng.standard_normal((WIDTH, wide)) * 0.3,
        }
        ffn = moe_weights(rng) if layer else {}
        if not layer:
            ffn = {name: rng.standard_normal((FFN, WIDTH)) * 0.3 for name in ("w_gate", "w_up")}
            ffn["w_down"] = rng.standard_normal((WIDTH, FFN)) * 0.3
        own |= {f"ffn.{name}": value for name, value in ffn.items()}
        weights |= {f"layers.{layer}.{name}": value for name, value in own.items()}
    return weights


def with_grad(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}


# -- the third reading, in torch -----------------------------------------------------------------------


def torch_ffn(x: torch.Tensor, w: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    gate, up = (x @ w[f"{prefix}w_{part}"].mT for part in ("gate", "up"))
    return (F.silu(gate) * up) @ w[f"{prefix}w_down"].mT


def torch_moe(x: torch.Tensor, w: dict[str, torch.Tensor], gate: str, prefix: str = "") -> torch.Tensor:
    logits = x @ w[f"{prefix}router.weight"].T
    scores = logits.softmax(-1) if gate == "softmax" else logits.sigmoid()
    values, chosen = scores.topk(CONFIG.top_k, -1)
    weights = torch.zeros_like(scores).scatter(-1, chosen, values / values.sum(-1, keepdim=True))
    y = torch.zeros_like(x)
    for e in range(EXPERTS):
        own = {name: w[f"{prefix}experts.{name}"][e] for name in ("w_gate", "w_up", "w_down")}
        y = y + weights[:, e : e + 1] * torch_ffn(x, own, "")
    return y + torch_ffn(x, w, f"{prefix}shared.") if f"{prefix}shared.w_up" in w else y


def torch_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (WIDTH,), weight, CONFIG.norm_eps)


def torch_turn(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions by complex numbers; x [B, S, N, C]. Angles are single-precision numbers by definition."""
    half = CONFIG.d_head // 2
    frequency = CONFIG.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = (torch.arange(x.shape[1])[:, None] * frequency.float()).double()
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


def torch_logits(tokens: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    x = w["embedding"][tokens]
    for layer in range(CONFIG.n_layers):
        p = f"layers.{layer}."
        n = torch_norm(x, w[p + "attention_norm.weight"])
        q, k, v = ((n @ w[f"{p}attention.w_{part}"].T).unflatten(-1, (-1, CONFIG.d_head)) for part in "qkv")
        q, k = torch_turn(q), torch_turn(k)
        y = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)), is_causal=True, enable_gqa=True
        )
        x = x + y.transpose(1, 2).flatten(2) @ w[p + "attention.w_o"].T
        n = torch_norm(x, w[p + "ffn_norm.weight"]).flatten(0, 1)
        y = torch_moe(n, w, "softmax", p + "ffn.") if layer else torch_ffn(n, w, p + "ffn.")
        x = x + y.view_as(x)
    return torch_norm(x, w["norm.weight"]) @ w.get("head", w["embedding"]).T


def torch_loss(tokens: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(torch_logits(tokens, w)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


# -- tests ---------------------------------------------------------------------------------------------


def assert_close(ours: np.ndarray, theirs: torch.Tensor | None) -> None:
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shared", [True, False])
def test_moe_gradients_equal_automatic_differentiation(gate: str, shared: bool) -> None:
    rng = np.random.default_rng(1)
    weights = moe_weights(rng, shared)
    x, grad_y = rng.standard_normal((2, 30, WIDTH))
    torch_x, torch_w = torch.tensor(x, requires_grad=True), with_grad(weights)
    y = torch_moe(torch_x, torch_w, gate)
    y.backward(torch.tensor(grad_y))
    assert_close(moe.moe_forward(x, weights, top_k=CONFIG.top_k, gate=gate), y)
    grad_x, gradients = moe_backward(x, grad_y, weights, top_k=CONFIG.top_k, gate=gate)
    assert_close(grad_x, torch_x.grad)
    assert gradients.keys() == weights.keys()
    for name, value in gradients.items():
        assert_close(value, torch_w[name].grad)


def test_an_expert_that_no_one_chose_gets_a_gradient_of_zero() -> None:
    rng = np.random.default_rng(2)
    weights = moe_weights(rng)
    weights["router.weight"][3] = -100 * weights["router.weight"][:3].sum(0)
    x = np.abs(rng.standard_normal((8, WIDTH)))
    weights["router.weight"][3] = -10.0  # against every token
    _, gradients = moe_backward(x, np.ones_like(x), weights, top_k=CONFIG.top_k)
    assert all((gradients[f"experts.{part}"][3] == 0).all() for part in ("w_gate", "w_up", "w_down"))
    assert (gradients["experts.w_up"] != 0).any()


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_gradients_equal_automatic_differentiation(tied: bool) -> None:
    rng = np.random.default_rng(3)
    weights = decoder_weights(rng, tied=tied)
    tokens = rng.integers(0, IDS, (3, 11))
    torch_w = with_grad(weights)
    loss = torch_loss(torch.tensor(tokens), torch_w)
    loss.backward()
    tape = forward(weights, tokens, CONFIG)
    assert_close(next_token_loss(tape), loss)
    gradients = backward(weights, tape, CONFIG)
    assert gradients.keys() == weights.keys()
    for name, value in gradients.items():
        assert_close(value, torch_w[name].grad)


def test_the_pass_that_is_walked_back_equals_the_one_that_keeps_nothing() -> None:
    rng = np.random.default_rng(4)
    weights = decoder_weights(rng)
    tokens = rng.integers(0, IDS, (2, 9))
    tape = forward(weights, tokens, CONFIG)
    np.testing.assert_allclose(
        tape.logits_BSV, transformer.forward(tokens, weights, CONFIG), rtol=1e-10, atol=1e-11
    )
    pasts = [transformer.Past(CONFIG) for _ in tokens]
    margin_T = transformer.read(pasts, list(tokens), weights, CONFIG).margin_T
    np.testing.assert_allclose(
        routing_margins(weights, tape, CONFIG), margin_T.reshape(tokens.shape).min(axis=1), rtol=1e-9
    )


@pytest.mark.parametrize("clip_norm", [0.05, 1e9])
def test_steps_equal_torch_s_adamw_with_and_without_clipping(clip_norm: float) -> None:
    rng = np.random.default_rng(5)
    weights = decoder_weights(rng)
    recipe = replace(RECIPE, clip_norm=clip_norm)
    ours, torch_w = Training(weights, CONFIG, recipe), with_grad(weights)
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in torch_w.values() if w.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [w for w in torch_w.values() if w.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        foreach=False,
    )
    for _ in range(4):
        tokens = rng.integers(0, IDS, (3, 8))
        loss = torch_loss(torch.tensor(tokens), torch_w)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(torch_w.values(), clip_norm)
        optimizer.step()
        assert_close(ours.step(tokens), loss)
    for name, value in ours.parameters.items():
        assert_close(value, torch_w[name])


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    gradients = {"a": np.full(3, 2.0), "b": np.full((2, 2), 2.0)}
    assert gradient_norm(gradients) == pytest.approx(28**0.5)
    assert gradient_norm(clipped(gradients, 0.5)) == pytest.approx(0.5, rel=1e-5)
    assert clipped(gradients, 6.0) is gradients


def test_single_precision_stays_single_and_leaves_what_it_was_given_alone() -> None:
    rng = np.random.default_rng(6)
    weights = {name: value.astype(np.float32) for name, value in decoder_weights(rng).items()}
    before = {name: value.copy() for name, value in weights.items()}
    training = Training(weights, CONFIG, RECIPE)
    assert training.step(rng.integers(0, IDS, (2, 8))).dtype == np.float32
    for name, value in training.parameters.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(weights[name], before[name])
        assert (value != before[name]).any()
