"""One layer of the transformer: attention and a feed-forward, each behind a norm and added to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention.gqa import Attention, Segment
from model.layers.attention.mla import MLA
from model.layers.attention.rotary import Rotation
from model.layers.ffn import SwiGLU
from model.layers.formats import autocast_dtype
from model.layers.moe.layer import MoELayer
from model.layers.norm import RMSNorm
from model.layers.recompute import Checkpointing, recomputed, recomputed_but_products
from model.layers.sharing import lend


class Block(nn.Module):
    """A block: x + attention(norm(x)), then x + ffn(norm(x)); `layer` decides whether the feed-forward is MoE.

    `attention_of` and `ffn_of` are blocks whose attention or feed-forward this one uses instead of its own.
    """

    attention: Attention | MLA
    ffn: SwiGLU | MoELayer

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        *,
        attention_of: Block | None = None,
        ffn_of: Block | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.window(layer)
        self.checkpointing: Checkpointing = "none"
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        if attention_of is not None:
            lend(self, "attention", attention_of.attention)
        else:
            self.attention = Attention(config) if config.latent is None else MLA(config)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        if ffn_of is not None:
            lend(self, "ffn", ffn_of.ffn)
        elif config.moe is not None and config.is_moe_layer(layer):
            self.ffn = MoELayer(config.moe)
        else:
            self.ffn = SwiGLU(config.d_model, config.d_ff, bias=config.ffn_bias)

    def forward(self, x_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None = None) -> Tensor:
        """Whole sequences; `first_BS` as `layers/attention/masks.py` makes it for this block's window, None: plainly causal."""
        # passed as an input: when a pipeline recomputes, the layer has another batch's mask
        is_token_BS = self.ffn.is_token if isinstance(self.ffn, MoELayer) else None
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            return self._whole(x_BSD, rotation, first_BS, is_token_BS)
        if self.checkpointing == "full":
            return recomputed(self._whole, x_BSD, rotation, first_BS, is_token_BS)
        attended_BSD = recomputed_but_products(self._attend, x_BSD, rotation, first_BS)
        return recomputed(self._feed, attended_BSD, is_token_BS)

    def _whole(
        self, x_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None, is_token_BS: Tensor | None
    ) -> Tensor:
        return self._feed(self._attend(x_BSD, rotation, first_BS), is_token_BS)

    def _attend(self, x_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None) -> Tensor:
        normed_BSD = self.attention_norm(x_BSD, autocast_dtype(x_BSD))  # cast once, not for each projection
        y_BSD: Tensor = self.attention(normed_BSD, rotation, first_BS)
        return x_BSD + y_BSD

    def _feed(self, x: Tensor, is_token: Tensor | None = None) -> Tensor:
        is_dense = isinstance(self.ffn, SwiGLU)  # routers are fp32
        normed = self.ffn_norm(x, autocast_dtype(x) if is_dense else None)
        y: Tensor = self.ffn(normed) if is_token is None else self.ffn(normed, is_token)
        return x + y

    def forward_cached(self, x_TD: Tensor, rotation: Rotation, segments: Sequence[Segment]) -> Tensor:
        """New tokens of several sequences; the segments must be made for this block's window."""
        normed_TD = self.attention_norm(x_TD)
        x_TD = x_TD + self.attention.forward_cached(normed_TD, rotation, self.layer, segments)
        return self._feed(x_TD)
