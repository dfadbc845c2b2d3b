"""The Mixture-of-Experts layer by its definition, in whichever precision the arrays come in.

Given double-precision arrays it is the oracle that timed outputs are compared with; given single-precision arrays it
is the yardstick of how much rounding error a plain implementation makes. It imports nothing from `model/` and uses
numpy only, so a bug or a cheat in the stack cannot reach it.

Definition (Shazeer et al. 2017, with the normalised top-k and shared experts of DeepSeekMoE, Dai et al. 2024):

    scores = softmax(x W_router^T)            (or an elementwise sigmoid)
    chosen = the k experts of highest score;  weight_e = score_e / sum of the chosen scores
    y      = sum over chosen e of weight_e * FFN_e(x)  +  FFN_shared(x)
    FFN(x) = W_down ( silu(W_gate x) * (W_up x) )

Shape letters: T tokens, D model width, E experts, F expert width, K experts per token, S width of the shared expert.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def silu(x: Array) -> Array:
    """x * sigmoid(x), written so that large negative values do not overflow."""
    half = np.tanh(x * x.dtype.type(0.5))  # sigmoid(x) = (1 + tanh(x / 2)) / 2
    return x * (half + x.dtype.type(1)) * x.dtype.type(0.5)


def feed_forward(x_TD: Array, w_gate_FD: Array, w_up_FD: Array, w_down_DF: Array) -> Array:
    """One SwiGLU expert: [T, D] -> [T, D]."""
    return (silu(x_TD @ w_gate_FD.T) * (x_TD @ w_up_FD.T)) @ w_down_DF.T


def scores(x_TD: Array, router_ED: Array, gate: str) -> Array:
    """Router scores [T, E] before the choice of experts."""
    logits_TE = x_TD @ router_ED.T
    if gate == "softmax":
        exponent_TE: Array = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
        total_T1: Array = exponent_TE.sum(axis=1, keepdims=True)
        return exponent_TE / total_T1
    if gate == "sigmoid":
        half_TE: Array = np.tanh(logits_TE * logits_TE.dtype.type(0.5))
        return (half_TE + 1) / 2
    raise ValueError(f"unknown gate {gate!r}")


def top_k_margin(x_TD: Array, router_ED: Array, top_k: int) -> Array:
    """Per token [T]: the gap between the logits of the last chosen and the first refused expert.

    Where the gap is within rounding error, two right implementations may choose different experts.
    """
    ordered_TE = np.sort(x_TD @ router_ED.T, axis=1)[:, ::-1]
    if top_k == router_ED.shape[0]:
        return np.full(x_TD.shape[0], np.inf, dtype=ordered_TE.dtype)
    return ordered_TE[:, top_k - 1] - ordered_TE[:, top_k]


def moe_forward(x_TD: Array, weights: Mapping[str, Array], *, top_k: int, gate: str = "softmax") -> Array:
    """The layer's answer [T, D] to x [T, D], in x's own precision.

    ``weights`` holds router.weight [E, D], experts.w_gate and experts.w_up [E, F, D], experts.w_down [E, D, F] and,
    where there are shared experts, shared.w_gate and shared.w_up [S, D], shared.w_down [D, S].
    """
    score_TE = scores(x_TD, weights["router.weight"], gate)
    chosen_TK = np.argsort(-score_TE, axis=1, kind="stable")[:, :top_k]
    weight_TK = np.take_along_axis(score_TE, chosen_TK, axis=1)
    weight_TK = weight_TK / weight_TK.sum(axis=1, keepdims=True)

    y_TD = np.zeros_like(x_TD)
    for expert in range(score_TE.shape[1]):
        token, place = np.nonzero(chosen_TK == expert)  # each token chooses an expert at most once
        if token.size == 0:
            continue
        answer_ND = feed_forward(
            x_TD[token],
            weights["experts.w_gate"][expert],
            weights["experts.w_up"][expert],
            weights["experts.w_down"][expert],
        )
        y_TD[token] += weight_TK[token, place][:, None] * answer_ND
    if "shared.w_gate" in weights:
        y_TD += feed_forward(x_TD, weights["shared.w_gate"], weights["shared.w_up"], weights["shared.w_down"])
    return y_TD
