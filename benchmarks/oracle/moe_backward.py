"""Gradients of the Mixture-of-Experts layer, written by hand from its definition in `benchmarks/oracle/moe.py`.

Given double-precision arrays it is the oracle that timed gradients are compared with; given single-precision arrays it
is the yardstick of a plain implementation's rounding error. It imports nothing from `model/`, knows no automatic
differentiation and uses numpy only. Intermediate values are computed again rather than kept: nothing here is fast.

The choice of experts is a step function: it is held fixed, as every framework does. Through the weights of the chosen,
normalised by their sum S, flows  d score_k = (d weight_k - sum_j weight_j d weight_j) / S.

Shape letters as in `benchmarks/oracle/moe.py`; N rows of tokens that chose one expert.
"""

from collections.abc import Mapping

import numpy as np

from benchmarks.oracle.moe import Array, scores, silu

Gradients = dict[str, Array]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return (np.tanh(x * x.dtype.type(0.5)) + x.dtype.type(1)) * x.dtype.type(0.5)


def feed_forward_backward(
    x_ND: Array, grad_y_ND: Array, w_gate_FD: Array, w_up_FD: Array, w_down_DF: Array
) -> tuple[Array, Array, Array, Array]:
    """Gradients of one SwiGLU expert: x [N, D], then w_gate, w_up [F, D] and w_down [D, F]."""
    gate_NF, up_NF = x_ND @ w_gate_FD.T, x_ND @ w_up_FD.T
    sigmoid_NF = sigmoid(gate_NF)
    grad_hidden_NF = grad_y_ND @ w_down_DF
    grad_up_NF = grad_hidden_NF * gate_NF * sigmoid_NF
    slope_NF = sigmoid_NF * (1 + gate_NF * (1 - sigmoid_NF))  # of silu
    grad_gate_NF = grad_hidden_NF * up_NF * slope_NF
    return (
        grad_gate_NF @ w_gate_FD + grad_up_NF @ w_up_FD,
        grad_gate_NF.T @ x_ND,
        grad_up_NF.T @ x_ND,
        grad_y_ND.T @ (silu(gate_NF) * up_NF),
    )


def moe_backward(
    x_TD: Array, grad_y_TD: Array, weights: Mapping[str, Array], *, top_k: int, gate: str = "softmax"
) -> tuple[Array, Gradients]:
    """Gradients of sum(grad_y * y): of x [T, D], and of every weight under its own name, in x's precision."""
    score_TE = scores(x_TD, weights["router.weight"], gate)
    chosen_TK = np.argsort(-score_TE, axis=1, kind="stable")[:, :top_k]
    chosen_score_TK = np.take_along_axis(score_TE, chosen_TK, axis=1)
    sum_T1 = chosen_score_TK.sum(axis=1, keepdims=True)
    weight_TK = chosen_score_TK / sum_T1

    gradients = {name: np.zeros_like(value) for name, value in weights.items()}
    grad_x_TD = np.zeros_like(x_TD)
    grad_weight_TK = np.zeros_like(weight_TK)
    for expert in range(score_TE.shape[1]):
        token, place = np.nonzero(chosen_TK == expert)
        if token.size == 0:
            continue
        w_gate, w_up, w_down = (weights[f"experts.{part}"][expert] for part in ("w_gate", "w_up", "w_down"))
        x_ND, grad_y_ND = x_TD[token], grad_y_TD[token]
        y_ND = (silu(x_ND @ w_gate.T) * (x_ND @ w_up.T)) @ w_down.T
        grad_weight_TK[token, place] = (grad_y_ND * y_ND).sum(axis=1)
        scaled_ND = grad_y_ND * weight_TK[token, place][:, None]
        grad_x_ND, *of_weights = feed_forward_backward(x_ND, scaled_ND, w_gate, w_up, w_down)
        grad_x_TD[token] += grad_x_ND
        for part, value in zip(("w_gate", "w_up", "w_down"), of_weights, strict=True):
            gradients[f"experts.{part}"][expert] = value

    mean_T1 = (weight_TK * grad_weight_TK).sum(axis=1, keepdims=True)
    grad_score_TK = (grad_weight_TK - mean_T1) / sum_T1
    grad_logit_TK = grad_score_TK * _slope(chosen_score_TK, gate)
    grad_logit_TE = np.zeros_like(score_TE)
    np.put_along_axis(grad_logit_TE, chosen_TK, grad_logit_TK, axis=1)
    gradients["router.weight"] = grad_logit_TE.T @ x_TD
    grad_x_TD += grad_logit_TE @ weights["router.weight"]

    if "shared.w_gate" in weights:
        shared = [weights[f"shared.{part}"] for part in ("w_gate", "w_up", "w_down")]
        grad_shared_x_TD, *of_weights = feed_forward_backward(x_TD, grad_y_TD, *shared)
        grad_x_TD += grad_shared_x_TD
        for part, value in zip(("w_gate", "w_up", "w_down"), of_weights, strict=True):
            gradients[f"shared.{part}"] = value
    return grad_x_TD, gradients


def _slope(score_TK: Array, gate: str) -> Array:
    """d score / d logit of the chosen.

    A softmax also couples every logit to every score, but by sum_j score_j d score_j, which is zero here: weights that
    sum to one do not change when all scores grow by one factor.
    """
    return score_TK if gate == "softmax" else score_TK * (1 - score_TK)
