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
from model.layers.attention import KeyValueStore, segment
from model.layers.block import Block
from model.layers.masks import sequence_mask
from model.layers.norm import RMSNorm
from model.layers.rotary import Rotation, rotation_at


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

    def forward(
        self, tokens_BS: Tensor, *, positions_BS: Tensor | None = None, documents_BS: Tensor | None = None
    ) -> Tensor:
        """Whole sequences without a cache: ids [B, S] -> fp32 logits [B, S, V]; the rest is as for `hidden`."""
        return self.logits(self.hidden(tokens_BS, positions_BS=positions_BS, documents_BS=documents_BS))

    def hidden(
        self, tokens_BS: Tensor, *, positions_BS: Tensor | None = None, documents_BS: Tensor | None = None
    ) -> Tensor:
        """The residual stream [B, S, D] after the last block, before the last norm.

        `documents_BS`: integer ids of the documents that are packed into a row; a token attends within its own only.
        `positions_BS`: rotary positions, each below `max_context`, starting again with each document; 0, 1 ... S-1
        where None.
        """
        positions = self._positions(tokens_BS) if positions_BS is None else positions_BS
        rotation, masks = self._rotation(positions), self._masks(tokens_BS, documents_BS)
        x_BSD = F.embedding(tokens_BS, self.embedding)
        for block in self.layers:
            x_BSD = block(x_BSD, rotation, masks[block.window])
        return x_BSD

    def logits(self, x: Tensor) -> Tensor:
        """fp32 logits [..., V] of residual streams [..., D]: last norm and head."""
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(x), head).float()

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
        return self.logits(x_TD[last])

    def _rotation(self, positions: Tensor) -> Rotation:
        config = self.config
        return rotation_at(positions, config.d_head, config.rope_theta, config.max_context, self.dtype)

    def _positions(self, tokens_BS: Tensor) -> Tensor:
        n_tokens, max_context = tokens_BS.shape[1], self.config.max_context
        if n_tokens > max_context:
            raise ValueError(
                f"rows of {n_tokens} tokens exceed the context of {max_context}: cut them, or give positions_BS"
            )
        return torch.arange(n_tokens, device=self.device)

    def _masks(self, tokens_BS: Tensor, documents_BS: Tensor | None) -> dict[int | None, Tensor | None]:
        """The mask of each window that occurs among the blocks."""
        n_tokens, device = tokens_BS.shape[1], tokens_BS.device
        windows = {block.window for block in self.layers}
        return {
            window: sequence_mask(n_tokens, documents_BS=documents_BS, window=window, device=device)
            for window in windows
        }
