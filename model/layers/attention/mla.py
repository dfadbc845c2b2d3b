"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), with and without a cache of the past.

Keys and values of all heads are linear maps of one latent vector per token, so that a cache keeps only this latent
and the rotary key that the heads share. Cached attention takes whichever of two equal forms multiplies less: the
plain one expands the latents to keys and values; the absorbed one folds these maps into queries and outputs and
attends to the latents themselves, as multi-query attention with one wide head would.

Shape suffixes in addition to those of model/layers/__init__.py: R width of the key/value latent, P rotary width, N width
without position, U width of a value, A = R + P the cached width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import LatentConfig, ModelConfig
from model.layers.attention import gqa_fused
from model.layers.attention.gqa import Segment, in_heads
from model.layers.attention.masks import span_mask
from model.layers.attention.rotary import Rotation, rotate, softmax_factor
from model.layers.linear import linear
from model.layers.norm import RMSNorm

LATENT_NORM_EPS = 1e-6  # as in DeepSeek's code, independent of the model's other norms


class MLA(nn.Module):
    """Multi-head latent attention. Weights: w_kv_down [R + P, D], kv_norm [R], w_kv_up [H*(N + U), R], w_o [D, H*U].

    Queries come from w_q [H*(N + P), D], or with a query latent of width Q from w_q_down [Q, D], q_norm [Q]
    and w_q_up [H*(N + P), Q]. Where the configuration asks for them: b_q_down, b_kv_down and b_o.
    """

    w_q: nn.Parameter | None
    w_q_down: nn.Parameter | None
    b_q_down: nn.Parameter | None
    q_norm: RMSNorm | None
    w_q_up: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.latent is None:
            raise ValueError(
                f"{config.name} has no ModelConfig.latent: use model.layers.attention.gqa.Attention"
            )
        self.latent = latent = config.latent
        d_query, d_kv = latent.d_nope + latent.d_rope, latent.d_nope + latent.d_value
        n_heads, d_model = config.n_heads, config.d_model
        self.n_heads, self.d_query = n_heads, d_query
        self.scale = d_query**-0.5 * softmax_factor(config.rope_scaling)
        self.w_q = self.w_q_down = self.b_q_down = self.q_norm = self.w_q_up = None
        if latent.q_rank is None:
            self.w_q = nn.Parameter(torch.empty(n_heads * d_query, d_model))
        else:
            self.w_q_down = nn.Parameter(torch.empty(latent.q_rank, d_model))
            self.b_q_down = nn.Parameter(torch.zeros(latent.q_rank)) if config.qkv_bias else None
            self.q_norm = RMSNorm(latent.q_rank, LATENT_NORM_EPS)
            self.w_q_up = nn.Parameter(torch.empty(n_heads * d_query, latent.q_rank))
        d_kept = latent.kv_rank + latent.d_rope
        self.w_kv_down = nn.Parameter(torch.empty(d_kept, d_model))
        self.b_kv_down = nn.Parameter(torch.zeros(d_kept)) if config.qkv_bias else None
        self.kv_norm = RMSNorm(latent.kv_rank, LATENT_NORM_EPS)
        self.w_kv_up = nn.Parameter(torch.empty(n_heads * d_kv, latent.kv_rank))
        self.w_o = nn.Parameter(torch.empty(d_model, n_heads * latent.d_value))
        self.b_o = nn.Parameter(torch.zeros(d_model)) if config.output_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_q, self.w_q_down, self.w_q_up, self.w_kv_down, self.w_kv_up, self.w_o):
            if weight is not None:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None = None) -> Tensor:
        """Whole sequences: [B, S, D] -> [B, S, D]; `first_BS` as `layers/attention/masks.py` makes it, None: plainly causal."""
        q_BSHC = self._queries(x_BSD, rotation)
        k_BHSC, v_BHSU = self._expanded(self._kept(x_BSD, rotation))
        if gqa_fused.fits(q_BSHC, k_BHSC, v_BHSU):
            k_BSHC, v_BSHU = k_BHSC.transpose(1, 2), v_BHSU.transpose(1, 2)
            y_BSHU = gqa_fused.attend(q_BSHC, k_BSHC, v_BSHU, self.scale, first_BS)
        else:
            q_BHSC, mask = q_BSHC.transpose(1, 2), None if first_BS is None else span_mask(first_BS)
            y_BSHU = self._attend(q_BHSC, k_BHSC, v_BHSU, mask, is_causal=mask is None).transpose(1, 2)
        return linear(y_BSHU.flatten(2), self.w_o, self.b_o)

    def forward_cached(
        self, x_TD: Tensor, rotation: Rotation, layer: int, segments: Sequence[Segment]
    ) -> Tensor:
        """New tokens of several sequences, each with its own past: [T, D] -> [T, D]."""
        q_THC, kept_TA = self._queries(x_TD, rotation), self._kept(x_TD, rotation)
        outputs: list[Tensor] = []
        start = 0
        for part in segments:
            end = start + part.n_tokens
            kept_T1A = kept_TA[start:end, None]
            past_1SA, _ = part.store.extend(layer, kept_T1A, kept_T1A[..., :0], part.first)
            past_SA = past_1SA[0]
            q_HtC = q_THC[start:end].transpose(0, 1)
            is_absorbed = absorbing_is_cheaper(part.n_tokens, past_SA.shape[0], self.latent)
            attend = self._attend_absorbed if is_absorbed else self._attend_expanded
            outputs.append(attend(q_HtC, past_SA, part).transpose(0, 1))
            start = end
        y_THU = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return linear(y_THU.flatten(1), self.w_o, self.b_o)

    def _queries(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[..., D] -> [..., H, N + P], the rotary part rotated."""
        if self.w_q is not None:
            q = linear(x, self.w_q)
        else:
            assert self.w_q_down is not None and self.q_norm is not None and self.w_q_up is not None
            q = linear(self.q_norm(linear(x, self.w_q_down, self.b_q_down)), self.w_q_up)
        # The number of heads follows from the weights: a tensor parallel rank has only some of them.
        q = in_heads(q, self.d_query)
        q_nope, q_rope = torch.split(q, [self.latent.d_nope, self.latent.d_rope], dim=-1)
        return torch.cat((q_nope, rotate(q_rope, rotation)), dim=-1)

    def _kept(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[..., D] -> [..., A]: the normed latent and the rotated shared key, which attention needs of a token."""
        down = linear(x, self.w_kv_down, self.b_kv_down)
        latent, k_rope = torch.split(down, [self.latent.kv_rank, self.latent.d_rope], dim=-1)
        turned = rotate(k_rope[..., None, :], rotation)[..., 0, :]
        return torch.cat((self.kv_norm(latent), turned), dim=-1)

    def _expanded(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """[..., S, A] -> keys [..., H, S, N + P] and values [..., H, S, U]."""
        latent = self.latent
        latents, k_rope = torch.split(kept, [latent.kv_rank, latent.d_rope], dim=-1)
        kv = in_heads(linear(latents, self.w_kv_up), latent.d_nope + latent.d_value)
        k_nope, v = torch.split(kv.transpose(-2, -3), [latent.d_nope, latent.d_value], dim=-1)
        k_rope = k_rope.unsqueeze(-3).expand(*k_nope.shape[:-1], latent.d_rope)
        return torch.cat((k_nope, k_rope), dim=-1), v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """Attention of [..., S, C] with values [..., S, U]."""
        # Fused kernels need one width: zeros add nothing to scores, and the values' padding is cut off.
        d_value = v.shape[-1]
        if d_value != q.shape[-1]:
            d_padded = max(q.shape[-1], d_value)
            q, k, v = (F.pad(heads, (0, d_padded - heads.shape[-1])) for heads in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=self.scale)
        return y[..., :d_value]

    def _attend_expanded(self, q_HtC: Tensor, past_SA: Tensor, part: Segment) -> Tensor:
        k_HSC, v_HSU = self._expanded(past_SA)
        is_causal = part.mask is None and part.n_tokens > 1
        return self._attend(q_HtC[None], k_HSC[None], v_HSU[None], part.mask, is_causal=is_causal)[0]

    def _attend_absorbed(self, q_HtC: Tensor, past_SA: Tensor, part: Segment) -> Tensor:
        """q . (W_uk c) = (W_uk^T q) . c, and a weighted sum of W_uv c is W_uv of the weighted sum of c."""
        latent = self.latent
        up_HXR = self.w_kv_up.view(-1, latent.d_nope + latent.d_value, latent.kv_rank)
        w_uk_HNR, w_uv_HUR = torch.split(up_HXR, [latent.d_nope, latent.d_value], dim=1)
        q_nope, q_rope = torch.split(q_HtC, [latent.d_nope, latent.d_rope], dim=-1)
        q_HtA = torch.cat((q_nope @ w_uk_HNR, q_rope), dim=-1)
        # The cached vectors are keys and values; the values' rotary part is dropped.
        past_HSA = past_SA.expand(len(q_HtA), -1, -1)
        is_causal = part.mask is None and part.n_tokens > 1
        y_HtA = self._attend(q_HtA[None], past_HSA[None], past_HSA[None], part.mask, is_causal=is_causal)[0]
        return y_HtA[..., : latent.kv_rank] @ w_uv_HUR.mT


def absorbing_is_cheaper(n_tokens: int, n_keys: int, latent: LatentConfig) -> bool:
    """Whether the absorbed form multiplies less than the plain one, per head, for so many new tokens and keys."""
    up = latent.kv_rank * (latent.d_nope + latent.d_value)
    d_padded = max(latent.d_nope + latent.d_rope, latent.d_value)  # of keys and values, see `_attend`
    plain = n_keys * up + n_tokens * n_keys * 2 * d_padded
    absorbed = n_tokens * up + n_tokens * n_keys * 2 * (latent.kv_rank + latent.d_rope)
    return absorbed < plain
