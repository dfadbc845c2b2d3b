"""Causal grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), with and without a cache of the past.

With as many key/value heads as heads it is multi-head attention, with one multi-query attention (arXiv:1911.02150). The
cached form takes a *ragged* batch: the new tokens of several sequences one after the other in one [T, D] tensor, so
that projections run once for all of them and nothing is padded; only the attention itself is computed per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import norm_fused
from model.layers.attention import gqa_fused
from model.layers.attention.masks import causal_mask, span_mask
from model.layers.attention.rotary import Rotation, rotate
from model.layers.formats import product_dtype
from model.layers.linear import linear
from model.layers.norm import RMSNorm


class KeyValueStore(Protocol):
    """Interface of the past of one sequence, in all layers."""

    @property
    def length(self) -> int:
        """Number of past tokens, the same for each layer; it grows after a whole step."""

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Write new keys and values after the past; returns those from position `first` on, each [G, S, C].

        Keys and values may differ in width; MLA keeps no values (width 0).
        """


@dataclass(frozen=True)
class Segment:
    """The new tokens of one sequence within a ragged batch."""

    store: KeyValueStore
    n_tokens: int
    mask: (
        Tensor | None
    )  # [n_tokens, past + n_tokens - first], true where a query may attend; None if no mask is needed
    first: int = 0  # no new token attends to keys before this one


def segment(store: KeyValueStore, n_tokens: int, device: torch.device, window: int | None = None) -> Segment:
    """Make a segment with its mask, which several tokens after a past need."""
    first = 0 if window is None else max(store.length - window + 1, 0)
    if n_tokens == 1 or (store.length == 0 and (window is None or window >= n_tokens)):
        return Segment(store, n_tokens, None, first)
    n_keys = store.length + n_tokens - first
    mask = causal_mask(n_tokens, n_keys, window=window, device=device)
    return Segment(store, n_tokens, mask, first)


class Attention(nn.Module):
    """Grouped-query attention. Weights: w_q [H*C, D], w_k and w_v [G*C, D], w_o [D, H*C].

    Where the configuration asks for them: biases b_q, b_k, b_v, b_o of the same rows, and norms q_norm and k_norm
    over each head (Qwen3) or over all heads at once (OLMoE), before the rotation.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        d_q, d_kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        self.clip = config.qkv_clip
        self.norms_heads = config.qk_norm == "head"
        self.w_q = nn.Parameter(torch.empty(d_q, config.d_model))
        self.w_k = nn.Parameter(torch.empty(d_kv, config.d_model))
        self.w_v = nn.Parameter(torch.empty(d_kv, config.d_model))
        self.w_o = nn.Parameter(torch.empty(config.d_model, d_q))
        self.b_q = nn.Parameter(torch.zeros(d_q)) if config.qkv_bias else None
        self.b_k = nn.Parameter(torch.zeros(d_kv)) if config.qkv_bias else None
        self.b_v = nn.Parameter(torch.zeros(d_kv)) if config.qkv_bias else None
        self.b_o = nn.Parameter(torch.zeros(config.d_model)) if config.output_bias else None
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm != "none":
            self.q_norm = RMSNorm(self.d_head if self.norms_heads else d_q, config.norm_eps)
            self.k_norm = RMSNorm(self.d_head if self.norms_heads else d_kv, config.norm_eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_q, self.w_k, self.w_v, self.w_o):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None = None) -> Tensor:
        """Whole sequences: [B, S, D] -> [B, S, D]; `first_BS` as `layers/attention/masks.py` makes it, None: plainly causal."""
        y_BSHC = attend(*self._project(x_BSD, rotation), first_BS)
        return linear(y_BSHC.flatten(2), self.w_o, self.b_o)

    def forward_cached(
        self, x_TD: Tensor, rotation: Rotation, layer: int, segments: Sequence[Segment]
    ) -> Tensor:
        """New tokens of several sequences, each with its own past: [T, D] -> [T, D]."""
        q_THC, k_TGC, v_TGC = self._project(x_TD, rotation)
        outputs: list[Tensor] = []
        start = 0
        for part in segments:
            end = start + part.n_tokens
            k_GSC, v_GSC = part.store.extend(layer, k_TGC[start:end], v_TGC[start:end], part.first)
            y_1HtC = F.scaled_dot_product_attention(
                q_THC[start:end].transpose(0, 1)[None],
                k_GSC[None],
                v_GSC[None],
                attn_mask=part.mask,
                is_causal=part.mask is None and part.n_tokens > 1,
                enable_gqa=True,
            )
            outputs.append(y_1HtC[0].transpose(0, 1))
            start = end
        y_THC = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return linear(y_THC.flatten(1), self.w_o, self.b_o)

    def _project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> queries [..., H, C], keys and values [..., G, C]; queries and keys turned."""
        q, k = linear(x, self.w_q, self.b_q), linear(x, self.w_k, self.b_k)
        v = linear(x, self.w_v, self.b_v)
        if self.q_norm is not None and self.k_norm is not None and not self.norms_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        # The number of heads follows from the weights: a tensor parallel rank has only some of them.
        q, k, v = (in_heads(x_of, self.d_head) for x_of in (q, k, v))
        if self.clip is not None:
            v = v.clamp(-self.clip, self.clip)
        return self._turned(q, self.q_norm, rotation), self._turned(k, self.k_norm, rotation), v

    def _turned(self, heads: Tensor, norm: RMSNorm | None, rotation: Rotation) -> Tensor:
        """[..., C], normed per head, clipped and rotated."""
        norm = norm if self.norms_heads else None
        weight_C = None if norm is None else norm.weight
        dtype = product_dtype(rotation.cos)
        if self.clip is None and dtype in norm_fused.FORMATS and norm_fused.fits(heads, weight_C, rotation):
            return norm_fused.turned(heads, rotation, dtype, weight_C, 0.0 if norm is None else norm.eps)
        heads = heads if norm is None else norm(heads)
        heads = heads if self.clip is None else heads.clamp(-self.clip, self.clip)
        return rotate(heads, rotation)


def in_heads(x: Tensor, width: int) -> Tensor:
    """[..., H * width] -> [..., H, width], also without rows."""
    return x.view(*x.shape[:-1], x.shape[-1] // width, width)


def attend(q_BSHC: Tensor, k_BSGC: Tensor, v_BSGC: Tensor, first_BS: Tensor | None) -> Tensor:
    """Causal attention of whole sequences by the kernels that fit, [B, S, H, C]; `first_BS` as `layers/attention/masks.py` makes it."""
    if gqa_fused.fits(q_BSHC, k_BSGC, v_BSGC):
        return gqa_fused.attend(q_BSHC, k_BSGC, v_BSGC, first_BS=first_BS)
    mask = None if first_BS is None else span_mask(first_BS)
    q_BHSC, k_BGSC, v_BGSC = (heads.transpose(1, 2) for heads in (q_BSHC, k_BSGC, v_BSGC))
    y_BHSC = F.scaled_dot_product_attention(
        q_BHSC, k_BGSC, v_BGSC, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return y_BHSC.transpose(1, 2)
