"""The decoder's loss and its gradients, written by hand from the definitions, with numpy only.

In double precision it is the oracle of suite `train_step`; in single precision the yardstick of a plain
implementation's rounding error. It imports nothing from `model/` and knows no automatic differentiation and no
optimiser. Parameter names are the stack's; the decoder's definition is in `benchmarks/oracle/transformer.py`, whose
forward pass keeps nothing and so cannot be walked back. The loss is the mean cross-entropy of each next token.
Normalised inputs and expert activations are computed again in the backward pass.

Shape letters: B sequences, S positions, D width, H query heads, G key and value heads, C head width, V ids,
N = H or G.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.oracle import moe
from benchmarks.oracle.moe import Array
from benchmarks.oracle.moe_backward import feed_forward_backward, moe_backward
from benchmarks.oracle.transformer import DecoderConfig, Ids, rms_norm, rotate, rotation

Parameters = dict[str, Array]


@dataclass(frozen=True)
class AttentionTape:
    """Values that attention's backward pass needs: rotated heads, probabilities, merged heads before w_o."""

    q_BHSC: Array
    k_BGSC: Array
    v_BGSC: Array
    p_BHSS: Array
    merged_BSE: Array


@dataclass(frozen=True)
class Tape:
    """One forward pass: the residual stream before each layer's halves, and at the end."""

    tokens_BS: Ids
    before_attention: Sequence[Array]
    attention: Sequence[AttentionTape]
    before_ffn: Sequence[Array]
    last_BSD: Array
    logits_BSV: Array


def within(parameters: Mapping[str, Array], prefix: str) -> Parameters:
    """The parameters below `prefix`, named from there."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def head(parameters: Parameters) -> Array:
    return parameters.get("head", parameters["embedding"])


# -- forward ---------------------------------------------------------------------------------------------


def split_heads(x_BSE: Array, n_heads: int) -> Array:
    batch, length, _ = x_BSE.shape
    return x_BSE.reshape(batch, length, n_heads, -1)


def merge_heads(x_BSNC: Array) -> Array:
    batch, length, _, _ = x_BSNC.shape
    return x_BSNC.reshape(batch, length, -1)


def attend(x_BSD: Array, weights: Parameters, config: DecoderConfig) -> tuple[Array, AttentionTape]:
    """Causal grouped-query attention: [B, S, D] -> [B, S, D]."""
    length = x_BSD.shape[1]
    turn = rotation(np.arange(length), config, x_BSD.dtype)
    q = rotate(split_heads(x_BSD @ weights["w_q"].T, config.n_heads), turn).swapaxes(1, 2)
    k = rotate(split_heads(x_BSD @ weights["w_k"].T, config.n_kv_heads), turn).swapaxes(1, 2)
    v = split_heads(x_BSD @ weights["w_v"].T, config.n_kv_heads).swapaxes(1, 2)
    repeat = config.n_heads // config.n_kv_heads
    score = q @ np.repeat(k, repeat, axis=1).swapaxes(-1, -2) * x_BSD.dtype.type(config.d_head**-0.5)
    score = np.where(np.tri(length, dtype=bool), score, -np.inf)
    exponent = np.exp(score - score.max(axis=-1, keepdims=True))
    p = exponent / exponent.sum(axis=-1, keepdims=True)
    merged = merge_heads((p @ np.repeat(v, repeat, axis=1)).swapaxes(1, 2))
    return merged @ weights["w_o"].T, AttentionTape(q, k, v, p, merged)


def feed_forward(x_BSD: Array, weights: Parameters, top_k: int) -> Array:
    x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
    if "router.weight" in weights:
        return moe.moe_forward(x_TD, weights, top_k=top_k).reshape(x_BSD.shape)
    y_TD = moe.feed_forward(x_TD, weights["w_gate"], weights["w_up"], weights["w_down"])
    return y_TD.reshape(x_BSD.shape)


def forward(parameters: Parameters, tokens_BS: Ids, config: DecoderConfig) -> Tape:
    """Ids [B, S] to logits [B, S, V], in the parameters' precision."""
    x_BSD = parameters["embedding"][tokens_BS]
    before_attention, attention, before_ffn = [], [], []
    for layer in range(config.n_layers):
        weights = within(parameters, f"layers.{layer}.")
        before_attention.append(x_BSD)
        normed = rms_norm(x_BSD, weights["attention_norm.weight"], config.norm_eps)
        y_BSD, kept = attend(normed, within(weights, "attention."), config)
        attention.append(kept)
        x_BSD = x_BSD + y_BSD
        before_ffn.append(x_BSD)
        normed = rms_norm(x_BSD, weights["ffn_norm.weight"], config.norm_eps)
        x_BSD = x_BSD + feed_forward(normed, within(weights, "ffn."), config.top_k)
    logits = rms_norm(x_BSD, parameters["norm.weight"], config.norm_eps) @ head(parameters).T
    return Tape(tokens_BS, before_attention, attention, before_ffn, x_BSD, logits)


def routing_margins(parameters: Parameters, tape: Tape, config: DecoderConfig) -> Array:
    """Per sequence [B]: over tokens and layers the smallest gap between a chosen and a refused expert's logits.

    Where it is within rounding error, two right implementations may choose different experts.
    """
    smallest_B = np.full(len(tape.tokens_BS), np.inf)
    for layer, x_BSD in enumerate(tape.before_ffn):
        weights = within(parameters, f"layers.{layer}.")
        if "ffn.router.weight" in weights:
            normed = rms_norm(x_BSD, weights["ffn_norm.weight"], config.norm_eps)
            x_TD = normed.reshape(-1, normed.shape[-1])
            margin_T = moe.top_k_margin(x_TD, weights["ffn.router.weight"], config.top_k)
            smallest_B = np.minimum(smallest_B, margin_T.reshape(len(smallest_B), -1).min(axis=1))
    return smallest_B


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_p


def next_token_loss(tape: Tape) -> Array:
    """Mean cross-entropy, in nats, of the tokens 1 .. S-1, each given those before it; shape ()."""
    log_p = log_softmax(tape.logits_BSV[:, :-1])
    chosen = np.take_along_axis(log_p, tape.tokens_BS[:, 1:, None], axis=-1)
    return np.asarray(-chosen.mean(), dtype=log_p.dtype)


# -- backward --------------------------------------------------------------------------------------------


def backward(parameters: Parameters, tape: Tape, config: DecoderConfig) -> Parameters:
    """Gradients of `next_token_loss` for every parameter, in the parameters' precision."""
    grads = {name: np.zeros_like(value) for name, value in parameters.items()}
    eps = config.norm_eps
    grad_logits = loss_backward(tape)
    grads["head" if "head" in parameters else "embedding"] += outer(
        grad_logits, rms_norm(tape.last_BSD, parameters["norm.weight"], eps)
    )
    grad_x, grads["norm.weight"] = norm_backward(
        tape.last_BSD, grad_logits @ head(parameters), parameters["norm.weight"], eps
    )
    for layer in reversed(range(config.n_layers)):
        prefix = f"layers.{layer}."
        weights = within(parameters, prefix)

        x_BSD, weight_D = tape.before_ffn[layer], weights["ffn_norm.weight"]
        grad_normed, of_ffn = feed_forward_grads(
            rms_norm(x_BSD, weight_D, eps), grad_x, within(weights, "ffn."), config.top_k
        )
        grad_before, grads[prefix + "ffn_norm.weight"] = norm_backward(x_BSD, grad_normed, weight_D, eps)
        grad_x = grad_x + grad_before

        x_BSD, weight_D = tape.before_attention[layer], weights["attention_norm.weight"]
        grad_normed, of_attention = attention_backward(
            rms_norm(x_BSD, weight_D, eps),
            grad_x,
            tape.attention[layer],
            within(weights, "attention."),
            config,
        )
        grad_before, grads[prefix + "attention_norm.weight"] = norm_backward(
            x_BSD, grad_normed, weight_D, eps
        )
        grad_x = grad_x + grad_before

        grads.update({f"{prefix}ffn.{name}": value for name, value in of_ffn.items()})
        grads.update({f"{prefix}attention.{name}": value for name, value in of_attention.items()})
    np.add.at(grads["embedding"], tape.tokens_BS, grad_x)
    return grads


def outer(grad_y_BSE: Array, x_BSD: Array) -> Array:
    """Gradient [E, D] of a weight that made y = x weight^T."""
    return grad_y_BSE.reshape(-1, grad_y_BSE.shape[-1]).T @ x_BSD.reshape(-1, x_BSD.shape[-1])


def loss_backward(tape: Tape) -> Array:
    """[B, S, V]; the last position of a sequence predicts nothing."""
    grad = np.zeros_like(tape.logits_BSV)
    p = np.exp(log_softmax(tape.logits_BSV[:, :-1]))
    targets = tape.tokens_BS[:, 1:, None]
    np.put_along_axis(p, targets, np.take_along_axis(p, targets, axis=-1) - 1, axis=-1)
    grad[:, :-1] = p / p.dtype.type(targets.size)
    return grad


def norm_backward(x_BSD: Array, grad_y: Array, weight_D: Array, eps: float) -> tuple[Array, Array]:
    """Gradients of the input and of the weight [D]."""
    inverse: Array = 1 / np.sqrt(np.mean(x_BSD * x_BSD, axis=-1, keepdims=True) + x_BSD.dtype.type(eps))
    unit = x_BSD * inverse
    grad_unit = grad_y * weight_D
    along: Array = np.mean(grad_unit * unit, axis=-1, keepdims=True)
    return inverse * (grad_unit - unit * along), (grad_y * unit).sum(axis=(0, 1))


def feed_forward_grads(
    x_BSD: Array, grad_y: Array, weights: Parameters, top_k: int
) -> tuple[Array, Parameters]:
    x_TD, grad_TD = (value.reshape(-1, value.shape[-1]) for value in (x_BSD, grad_y))
    if "router.weight" in weights:
        grad_x_TD, grads = moe_backward(x_TD, grad_TD, weights, top_k=top_k)
    else:
        names = ("w_gate", "w_up", "w_down")
        grad_x_TD, *of_weights = feed_forward_backward(x_TD, grad_TD, *(weights[name] for name in names))
        grads = dict(zip(names, of_weights, strict=True))
    return grad_x_TD.reshape(x_BSD.shape), grads


def attention_backward(
    x_BSD: Array, grad_y: Array, tape: AttentionTape, weights: Parameters, config: DecoderConfig
) -> tuple[Array, Parameters]:
    """Gradients of the normalised input and of the four weights."""
    repeat = config.n_heads // config.n_kv_heads
    cos, sin = rotation(np.arange(x_BSD.shape[1]), config, x_BSD.dtype)
    back = cos, -sin  # turning back is turning by the opposite angle
    grad_merged = split_heads(grad_y @ weights["w_o"], config.n_heads).swapaxes(1, 2)
    k_BHSC, v_BHSC = (np.repeat(kept, repeat, axis=1) for kept in (tape.k_BGSC, tape.v_BGSC))
    grad_p = grad_merged @ v_BHSC.swapaxes(-1, -2)
    grad_score = tape.p_BHSS * (grad_p - (grad_p * tape.p_BHSS).sum(axis=-1, keepdims=True))
    grad_score = grad_score * x_BSD.dtype.type(config.d_head**-0.5)

    def of_group(grad_BHSC: Array) -> Array:
        """Query heads of one group share a key and a value."""
        batch, _, length, width = grad_BHSC.shape
        summed: Array = grad_BHSC.reshape(batch, config.n_kv_heads, repeat, length, width).sum(axis=2)
        return summed

    grad_q = merge_heads(rotate((grad_score @ k_BHSC).swapaxes(1, 2), back))
    grad_k = of_group(grad_score.swapaxes(-1, -2) @ tape.q_BHSC).swapaxes(1, 2)
    grad_k = merge_heads(rotate(grad_k, back))
    grad_v = merge_heads(of_group(tape.p_BHSS.swapaxes(-1, -2) @ grad_merged).swapaxes(1, 2))
    grad_x = grad_q @ weights["w_q"] + grad_k @ weights["w_k"] + grad_v @ weights["w_v"]
    return grad_x, {
        "w_q": outer(grad_q, x_BSD),
        "w_k": outer(grad_k, x_BSD),
        "w_v": outer(grad_v, x_BSD),
        "w_o": outer(grad_y, tape.merged_BSE),
    }
