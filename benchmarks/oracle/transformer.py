"""The decoder-only transformer by its definition, in whichever precision its weights come in.

Given double-precision weights it is the oracle that timed outputs are compared with; given single-precision weights it
is the yardstick of how much rounding error a plain implementation makes. It imports nothing from `model/` and uses
numpy only.

Definition (Llama's conventions, Touvron et al. 2023, arXiv:2302.13971):

    x = embedding[id];  per layer  x += attention(norm(x)),  x += ffn(norm(x));  logits = norm(x) head^T
    norm(x)    = x / sqrt(mean(x^2) + eps) * weight                                       (Zhang & Sennrich 2019)
    q, k turn by their position: dimension i together with i + C/2, angle position * theta^(-2i/C)   (Su et al. 2021)
    attention  = softmax(q k^T / sqrt(C)) v over positions up to the query's own; H / G query heads share a key head
    ffn        = W_down (silu(W_gate x) * (W_up x)), or the Mixture of Experts of `benchmarks.oracle.moe`

Angles are rounded to single precision in all implementations of these conventions, and weights are trained with that:
it belongs to the definition. (Unrounded ones would differ by up to 3e-5 at position 1000, more than all other rounding.)

Shape letters: B sequences, S positions, T tokens of all sequences one after the other, D model width, H query heads,
G key/value heads, C head width, R = H / G, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import moe

Array = NDArray[np.floating]
Ids = NDArray[np.integer]
Weights = Mapping[str, Array]

QUERY_ROWS = 256  # queries of one product, so that long prompts do not need all scores at once


@dataclass(frozen=True)
class DecoderConfig:
    """Settings that the weights' shapes do not show. Layers with a `router.weight` are MoE; without a `head` it is tied."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    top_k: int = 1
    gate: str = "softmax"
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


class Past:
    """Keys (turned) and values of one sequence, per layer [S, G, C]."""

    def __init__(self, config: DecoderConfig) -> None:
        self.keys: list[Array | None] = [None] * config.n_layers
        self.values: list[Array | None] = [None] * config.n_layers

    @property
    def length(self) -> int:
        return 0 if self.keys[-1] is None else len(self.keys[-1])

    def append(self, layer: int, k_TGC: Array, v_TGC: Array) -> tuple[Array, Array]:
        """Past and new keys and values of one layer, [S, G, C] each."""
        old_k, old_v = self.keys[layer], self.values[layer]
        k_SGC = k_TGC if old_k is None else np.concatenate((old_k, k_TGC))
        v_SGC = v_TGC if old_v is None else np.concatenate((old_v, v_TGC))
        self.keys[layer], self.values[layer] = k_SGC, v_SGC
        return k_SGC, v_SGC

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        self.keys = [None if kept is None else kept[:length] for kept in self.keys]
        self.values = [None if kept is None else kept[:length] for kept in self.values]


class Reading(NamedTuple):
    """Result of reading T tokens."""

    hidden_TD: Array  # after the last norm: what the head multiplies with
    margin_T: (
        Array  # the smallest router margin of a token over all MoE layers; infinite where there are none
    )


def forward(tokens_BS: Ids, weights: Weights, config: DecoderConfig) -> Array:
    """Logits [B, S, V] of whole sequences, in the weights' precision."""
    sequences, positions = tokens_BS.shape
    hidden_TD = read([Past(config) for _ in range(sequences)], list(tokens_BS), weights, config).hidden_TD
    return logits(hidden_TD, weights).reshape(sequences, positions, -1)


def read(pasts: Sequence[Past], parts: Sequence[Ids], weights: Weights, config: DecoderConfig) -> Reading:
    """Read each sequence's new ids behind its past, which grows by them. Tokens of all parts stand one after another."""
    ends = np.cumsum([len(part) for part in parts])
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    positions_T = np.concatenate(
        [past.length + np.arange(len(part)) for past, part in zip(pasts, parts, strict=True)]
    )
    x_TD = weights["embedding"][np.concatenate(parts)]
    turn = rotation(positions_T, config, x_TD.dtype)
    margin_T = np.full(len(x_TD), np.inf)
    for layer in range(config.n_layers):
        own = _below(f"layers.{layer}.", weights)
        normed_TD = rms_norm(x_TD, own["attention_norm.weight"], config.norm_eps)
        x_TD = x_TD + _attention(normed_TD, own, config, turn, layer, pasts, spans)
        normed_TD = rms_norm(x_TD, own["ffn_norm.weight"], config.norm_eps)
        ffn = _below("ffn.", own)
        if "router.weight" in ffn:
            margin_T = np.minimum(margin_T, moe.top_k_margin(normed_TD, ffn["router.weight"], config.top_k))
            x_TD = x_TD + moe.moe_forward(normed_TD, ffn, top_k=config.top_k, gate=config.gate)
        else:
            x_TD = x_TD + moe.feed_forward(normed_TD, ffn["w_gate"], ffn["w_up"], ffn["w_down"])
    return Reading(rms_norm(x_TD, weights["norm.weight"], config.norm_eps), margin_T)


def _below(prefix: str, weights: Weights) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def logits(hidden_TD: Array, weights: Weights) -> Array:
    """[T, D] after the last norm -> [T, V]."""
    return hidden_TD @ weights.get("head", weights["embedding"]).T


def rms_norm(x_TD: Array, weight_D: Array, eps: float) -> Array:
    mean_T1: Array = np.mean(np.square(x_TD), axis=-1, keepdims=True)
    return x_TD / np.sqrt(mean_T1 + mean_T1.dtype.type(eps)) * weight_D


def rotation(positions_T: Ids, config: DecoderConfig, dtype: np.dtype) -> tuple[Array, Array]:
    """Cosines and sines [T, 1, C/2]. The angles are single-precision numbers by definition, see above."""
    frequency_C = config.rope_theta ** -(np.arange(0, config.d_head, 2) / config.d_head)
    angle_TC = (positions_T.astype(np.float32)[:, None] * frequency_C.astype(np.float32)).astype(dtype)
    return np.cos(angle_TC)[:, None], np.sin(angle_TC)[:, None]


def rotate(heads_TNC: Array, turn: tuple[Array, Array]) -> Array:
    """Turn the pairs (i, i + C/2) of each head."""
    cos, sin = turn
    first, second = np.split(heads_TNC, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def _attention(
    x_TD: Array,
    own: Weights,
    config: DecoderConfig,
    turn: tuple[Array, Array],
    layer: int,
    pasts: Sequence[Past],
    spans: Sequence[tuple[int, int]],
) -> Array:
    def heads(name: str, count: int) -> Array:
        return (x_TD @ own[f"attention.{name}"].T).reshape(len(x_TD), count, config.d_head)

    q_THC = rotate(heads("w_q", config.n_heads), turn)
    k_TGC = rotate(heads("w_k", config.n_kv_heads), turn)
    v_TGC = heads("w_v", config.n_kv_heads)
    y_THC = np.empty_like(q_THC)
    for past, (start, end) in zip(pasts, spans, strict=True):
        k_SGC, v_SGC = past.append(layer, k_TGC[start:end], v_TGC[start:end])
        for first in range(start, end, QUERY_ROWS):
            last = min(first + QUERY_ROWS, end)
            seen = len(k_SGC) - (end - last)  # keys up to the last query's own position
            y_THC[first:last] = _attend(q_THC[first:last], k_SGC[:seen], v_SGC[:seen])
    return y_THC.reshape(len(x_TD), -1) @ own["attention.w_o"].T


def _attend(q_NHC: Array, k_SGC: Array, v_SGC: Array) -> Array:
    """N queries that are the last N of S positions: [N, H, C]."""
    queries, n_heads, d_head = q_NHC.shape
    positions, groups, _ = k_SGC.shape
    q_GRNC = q_NHC.reshape(queries, groups, n_heads // groups, d_head).transpose(1, 2, 0, 3)
    score_GRNS = q_GRNC @ k_SGC.transpose(1, 2, 0)[:, None] * q_NHC.dtype.type(d_head**-0.5)
    hidden_NS = np.arange(positions) > np.arange(positions - queries, positions)[:, None]
    score_GRNS[..., hidden_NS] = -np.inf
    weight_GRNS = np.exp(score_GRNS - score_GRNS.max(axis=-1, keepdims=True))
    weight_GRNS /= weight_GRNS.sum(axis=-1, keepdims=True)
    y_GRNC: Array = weight_GRNS @ v_SGC.transpose(1, 0, 2)[:, None]
    return y_GRNC.transpose(2, 0, 1, 3).reshape(queries, n_heads, d_head)
