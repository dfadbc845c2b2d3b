"""The oracle against a token-by-token reading of the definition, and against the stack's own readable form."""

import math

import numpy as np
import pytest
import torch

from benchmarks.oracle import moe
from benchmarks.suites.moe_forward import draw_weights
from model.config import MoEConfig
from model.layers.moe.layer import MoELayer

SHAPE = {"tokens": 9, "d_model": 12, "d_expert": 10, "n_experts": 5, "top_k": 2, "n_shared": 2}


def weights_and_tokens(seed: int = 3, **shape: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    merged = SHAPE | shape
    weights = {name: value.astype(np.float64) for name, value in draw_weights(merged, rng).items()}
    return weights, rng.standard_normal((merged["tokens"], merged["d_model"]))


def one_token(x: np.ndarray, weights: dict[str, np.ndarray], top_k: int, gate: str) -> np.ndarray:
    """The definition, for one token, with Python's own numbers where that is possible."""
    logits = [float(row @ x) for row in weights["router.weight"]]
    if gate == "softmax":
        total = math.fsum(math.exp(logit) for logit in logits)
        scores = [math.exp(logit) / total for logit in logits]
    else:
        scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    chosen = sorted(range(len(scores)), key=lambda e: -scores[e])[:top_k]
    norm = sum(scores[e] for e in chosen)

    def expert(w_gate: np.ndarray, w_up: np.ndarray, w_down: np.ndarray) -> np.ndarray:
        hidden = [
            float(g @ x) / (1 + math.exp(-float(g @ x))) * float(u @ x)
            for g, u in zip(w_gate, w_up, strict=True)
        ]
        return w_down @ np.array(hidden)

    answer = expert(weights["shared.w_gate"], weights["shared.w_up"], weights["shared.w_down"])
    for e in chosen:
        routed = (weights[f"experts.{part}"][e] for part in ("w_gate", "w_up", "w_down"))
        answer = answer + scores[e] / norm * expert(*routed)
    return answer


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_equals_the_definition_token_by_token(gate: str, top_k: int) -> None:
    weights, x = weights_and_tokens()
    answer = moe.moe_forward(x, weights, top_k=top_k, gate=gate)
    for token in range(x.shape[0]):
        np.testing.assert_allclose(
            answer[token], one_token(x[token], weights, top_k, gate), rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_equals_the_shipped_layer_in_double_precision_up_to_its_fp32_parts(gate: str) -> None:
    weights, x = weights_and_tokens(tokens=40, d_model=16, d_expert=8, n_experts=6)
    config = MoEConfig(d_model=16, d_expert=8, n_experts=6, top_k=2, n_shared=2, gate=gate)
    layer = MoELayer(config)
    layer.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
    single = {name: value.astype(np.float32) for name, value in weights.items()}
    with torch.inference_mode():
        theirs = layer(torch.from_numpy(x).float()).numpy()
    exact = moe.moe_forward(
        x.astype(np.float32).astype(np.float64),
        {k: v.astype(np.float64) for k, v in single.items()},
        top_k=2,
        gate=gate,
    )
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=2e-5)


def test_a_layer_without_shared_experts_is_only_the_routed_sum() -> None:
    weights, x = weights_and_tokens()
    shared = moe.feed_forward(x, weights["shared.w_gate"], weights["shared.w_up"], weights["shared.w_down"])
    routed_only = {name: value for name, value in weights.items() if not name.startswith("shared.")}
    np.testing.assert_allclose(
        moe.moe_forward(x, routed_only, top_k=2) + shared, moe.moe_forward(x, weights, top_k=2), rtol=1e-12
    )


def test_single_precision_in_is_single_precision_out() -> None:
    weights, x = weights_and_tokens()
    single = {name: value.astype(np.float32) for name, value in weights.items()}
    assert moe.moe_forward(x.astype(np.float32), single, top_k=2).dtype == np.float32


def test_silu_of_large_values_neither_overflows_nor_loses_its_sign() -> None:
    with np.errstate(all="raise", under="ignore"):
        values = moe.silu(np.array([-800.0, -1.0, 0.0, 1.0, 800.0]))
    assert values[0] == 0.0 and values[2] == 0.0 and values[4] == 800.0
    np.testing.assert_allclose(values[[1, 3]], [-0.2689414213699951, 0.7310585786300049], rtol=1e-14)


def test_margin_is_the_gap_between_the_last_chosen_and_the_first_refused() -> None:
    router = np.eye(4)
    x = np.array([[4.0, 3.0, 2.5, 0.0]])
    np.testing.assert_allclose(moe.top_k_margin(x, router, 2), [0.5])
    assert np.isinf(moe.top_k_margin(x, router, 4)).all()


def test_an_unknown_gate_is_refused() -> None:
    weights, x = weights_and_tokens()
    with pytest.raises(ValueError, match="hardmax"):
        moe.moe_forward(x, weights, top_k=2, gate="hardmax")
