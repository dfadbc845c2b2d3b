"""Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2): modules that predict tokens after the next one.

Module i, counted from zero, joins the residual stream at position p with the embedding of token p + i + 1 and predicts
token p + i + 2; its output is the next module's input. Embedding and head are the transformer's. Training uses the
modules, and serving uses them for draft tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention.rotary import Rotation
from model.layers.block import Block
from model.layers.norm import RMSNorm


class MTPModule(nn.Module):
    """One MTP module: norms of both inputs, their projection [D, 2D], a block, and the norm before the head.

    The block is of the kind of the transformer's last layer, with its own weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden_norm = RMSNorm(config.d_model, config.norm_eps)
        self.embedding_norm = RMSNorm(config.d_model, config.norm_eps)
        self.w_join = nn.Parameter(torch.empty(config.d_model, 2 * config.d_model))
        self.block = Block(config, config.n_layers - 1)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.w_join, std=self.w_join.shape[-1] ** -0.5)

    def cast_block(self, dtype: torch.dtype) -> None:
        """Cast everything but the norm before the head, as `Transformer.cast_blocks` does."""
        for part in (self.hidden_norm, self.embedding_norm, self.block):
            part.to(dtype)
        self.w_join.data = self.w_join.data.to(dtype)

    def join(self, x_BSD: Tensor, embedded_BSD: Tensor) -> Tensor:
        """The block's input [B, S, D], in the residual stream's dtype."""
        both_BSX = torch.cat((self.hidden_norm(x_BSD), self.embedding_norm(embedded_BSD)), dim=-1)
        return F.linear(both_BSX, self.w_join).to(x_BSD.dtype)

    def forward(
        self, x_BSD: Tensor, embedded_BSD: Tensor, rotation: Rotation, first_BS: Tensor | None = None
    ) -> Tensor:
        """Residual stream [B, S, D] and embeddings of later tokens -> the residual stream for the next depth."""
        y_BSD: Tensor = self.block(self.join(x_BSD, embedded_BSD), rotation, first_BS)
        return y_BSD


def tokens_after(tokens_BS: Tensor, distance: int) -> Tensor:
    """The token `distance` positions after each one; the row's end is filled with its beginning.

    The predictions of those last positions are meaningless and must enter no loss: they have no targets.
    Attention is causal, so nothing of them reaches earlier positions.
    """
    return tokens_BS.roll(-distance, dims=1)
