"""One layer of the transformer: attention and a feed-forward, each behind a norm and added to the residual stream.

Knows nothing of embeddings, of how many layers there are, or of which of them share weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention import Attention, Segment
from model.layers.ffn import SwiGLU
from model.layers.moe import MoELayer
from model.layers.norm import RMSNorm
from model.layers.rotary import Rotation


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); `layer` decides whether the feed-forward is MoE."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.window(layer)
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn: SwiGLU | MoELayer
        if config.moe is not None and config.is_moe_layer(layer):
            self.ffn = MoELayer(config.moe)
        else:
            self.ffn = SwiGLU(config.d_model, config.d_ff)

    def forward(self, x_BSD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """Whole sequences; `mask` as `layers/masks.py` makes it for this block's window, None: plainly causal."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotation, mask)
        y_BSD: Tensor = self.ffn(self.ffn_norm(x_BSD))
        return x_BSD + y_BSD

    def forward_cached(self, x_TD: Tensor, rotation: Rotation, segments: Sequence[Segment]) -> Tensor:
        """New tokens of several sequences; the segments are made for this block's window."""
        normed_TD = self.attention_norm(x_TD)
        x_TD = x_TD + self.attention.forward_cached(normed_TD, rotation, self.layer, segments)
        y_TD: Tensor = self.ffn(self.ffn_norm(x_TD))
        return x_TD + y_TD
