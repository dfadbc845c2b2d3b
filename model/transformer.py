"""The decoder-only transformer: blocks with dense or MoE feed-forwards, with and without a KV cache.

Conventions are Llama's (pre-norm, RMSNorm, rotary, SwiGLU, no biases). Blocks may be bf16; the residual stream,
the embedding, the last norm and the head stay fp32: sums over many layers and close calls between two tokens are
where bf16's eight bits change answers. Knows nothing of tokenizers, requests, training or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention import Attention, KeyValueStore, Segment, segment
from model.layers.ffn import SwiGLU
from model.layers.moe import MoELayer
from model.layers.norm import RMSNorm
from model.layers.rotary import Rotation, rotation_at


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); `layer` decides whether the feed-forward is MoE."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn: SwiGLU | MoELayer
        if config.moe is not None and config.is_moe_layer(layer):
            self.ffn = MoELayer(config.moe)
        else:
            self.ffn = SwiGLU(config.d_model, config.d_ff)

    def forward(self, x_BSD: Tensor, rotation: Rotation) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotation)
        y_TD: Tensor = self.ffn(self.ffn_norm(x_BSD).flatten(0, 1))
        return x_BSD + y_TD.view_as(x_BSD)

    def forward_cached(self, x_TD: Tensor, rotation: Rotation, segments: Sequence[Segment]) -> Tensor:
        normed_TD = self.attention_norm(x_TD)
        x_TD = x_TD + self.attention.forward_cached(normed_TD, rotation, self.layer, segments)
        y_TD: Tensor = self.ffn(self.ffn_norm(x_TD))
        return x_TD + y_TD


class Transformer(nn.Module):
    """Token ids to next-token logits (fp32). Parameters are random until a state dict is loaded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        tied = config.tie_embeddings
        self.head = None if tied else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        for weight in (self.embedding, self.head):
            if weight is not None:
                nn.init.normal_(weight, std=config.d_model**-0.5)

    def cast_blocks(self, dtype: torch.dtype) -> Transformer:
        """Casts the blocks in place; embedding, last norm and head keep their dtype."""
        self.layers.to(dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The blocks' dtype, which is also that of keys and values."""
        return next(self.layers.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Whole sequences without a cache: ids [B, S] -> logits [B, S, V]."""
        rotation = self._rotation(torch.arange(tokens_BS.shape[1], device=self.device))
        x_BSD = F.embedding(tokens_BS, self.embedding)
        for block in self.layers:
            x_BSD = block(x_BSD, rotation)
        return self._logits(x_BSD)

    @torch.inference_mode()
    def step(self, parts: Sequence[tuple[KeyValueStore, Sequence[int]]]) -> Tensor:
        """One pass over the new token ids of N sequences, each behind the past in its store.

        Returns the logits [N, V] after each sequence's last new token. The stores hold the new keys and values
        at once; their owner advances their length when the step has succeeded, so a failed step leaves no trace.
        Raises ValueError for a part without tokens or one that ends beyond `max_context`.
        """
        positions: list[int] = []
        ids: list[int] = []
        last: list[int] = []
        for store, new in parts:
            if not new or store.length + len(new) > self.config.max_context:
                raise ValueError("each part needs new tokens that end within max_context")
            positions.extend(range(store.length, store.length + len(new)))
            ids.extend(new)
            last.append(len(ids) - 1)
        segments = [segment(store, len(new), self.device) for store, new in parts]
        rotation = self._rotation(torch.tensor(positions, device=self.device))
        x_TD = F.embedding(torch.tensor(ids, device=self.device), self.embedding)
        for block in self.layers:
            x_TD = block.forward_cached(x_TD, rotation, segments)  # type: ignore[operator]  # a Block, not a Tensor
        return self._logits(x_TD[last])

    def _rotation(self, positions: Tensor) -> Rotation:
        config = self.config
        return rotation_at(positions, config.d_head, config.rope_theta, config.max_context, self.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(x), head).float()
