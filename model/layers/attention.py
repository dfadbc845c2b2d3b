"""Causal grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), with and without a cache of the past.

The cached form takes a *ragged* batch: the new tokens of several sequences one after the other in one [T, D]
tensor, so that projections run once for all of them and nothing is padded; only the attention itself goes
sequence by sequence. Knows nothing of where a cache keeps its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.rotary import Rotation, rotate


class KeyValueStore(Protocol):
    """The past of one sequence, all layers."""

    @property
    def length(self) -> int:
        """Tokens of the past, the same for each layer; it grows once a whole step is done."""

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor) -> tuple[Tensor, Tensor]:
        """Writes new keys and values behind the past; returns past and new ones, each [G, S, C]."""


@dataclass(frozen=True)
class Segment:
    """The new tokens of one sequence within a ragged batch."""

    store: KeyValueStore
    n_tokens: int
    mask: (
        Tensor | None
    )  # [n_tokens, past + n_tokens], true where a query may look; None where no mask is needed


def segment(store: KeyValueStore, n_tokens: int, device: torch.device) -> Segment:
    """A segment with the mask it needs: one that continues a past by several tokens is not plainly causal."""
    if n_tokens == 1 or store.length == 0:
        return Segment(store, n_tokens, None)
    shape = (n_tokens, store.length + n_tokens)
    return Segment(store, n_tokens, torch.ones(shape, dtype=torch.bool, device=device).tril(store.length))


class Attention(nn.Module):
    """Weights: w_q [H*C, D], w_k and w_v [G*C, D], w_o [D, H*C]; no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.w_q = nn.Parameter(torch.empty(self.n_heads * self.d_head, config.d_model))
        self.w_k = nn.Parameter(torch.empty(self.n_kv_heads * self.d_head, config.d_model))
        self.w_v = nn.Parameter(torch.empty(self.n_kv_heads * self.d_head, config.d_model))
        self.w_o = nn.Parameter(torch.empty(config.d_model, self.n_heads * self.d_head))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_q, self.w_k, self.w_v, self.w_o):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x_BSD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """Whole sequences: [B, S, D] -> [B, S, D]; `mask` [S, S] or [B, 1, S, S], None: plainly causal."""
        q_BHSC, k_BGSC, v_BGSC = (heads.transpose(1, 2) for heads in self._project(x_BSD, rotation))
        y_BHSC = F.scaled_dot_product_attention(
            q_BHSC, k_BGSC, v_BGSC, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return F.linear(y_BHSC.transpose(1, 2).flatten(2), self.w_o)

    def forward_cached(
        self, x_TD: Tensor, rotation: Rotation, layer: int, segments: Sequence[Segment]
    ) -> Tensor:
        """New tokens of several sequences, each looking at its own past: [T, D] -> [T, D]."""
        q_THC, k_TGC, v_TGC = self._project(x_TD, rotation)
        outputs: list[Tensor] = []
        start = 0
        for part in segments:
            end = start + part.n_tokens
            k_GSC, v_GSC = part.store.extend(layer, k_TGC[start:end], v_TGC[start:end])
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
        return F.linear(y_THC.flatten(1), self.w_o)

    def _project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> queries [..., H, C], keys and values [..., G, C]; queries and keys turned."""
        lead = x.shape[:-1]
        q = F.linear(x, self.w_q).view(*lead, self.n_heads, self.d_head)
        k = F.linear(x, self.w_k).view(*lead, self.n_kv_heads, self.d_head)
        v = F.linear(x, self.w_v).view(*lead, self.n_kv_heads, self.d_head)
        return rotate(q, rotation), rotate(k, rotation), v
