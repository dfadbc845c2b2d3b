"""The decoder-only transformer: blocks with dense or MoE feed-forwards, with and without a KV cache.

Conventions are Llama's (pre-norm, RMSNorm, rotary, SwiGLU). Where only the blocks are cast to bf16, the residual
stream, the embedding, the last norm and the head stay fp32: sums over many layers and close calls between two tokens
are where bf16's eight bits change answers. A model that is loaded in bf16 as a whole computes them in bf16 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention.gqa import KeyValueStore, segment
from model.layers.attention.masks import document_lengths, first_seen
from model.layers.attention.rotary import Rotary, Rotation
from model.layers.block import Block
from model.layers.mtp import MTPModule, tokens_after
from model.layers.norm import RMSNorm
from model.layers.recompute import Checkpointing, checked

Spans = dict[int | None, Tensor | None]  # by sliding window, the result of `first_seen`; None: plainly causal


class Transformer(nn.Module):
    """The model: token ids to next-token logits (fp32). Parameters are random until a state dict is loaded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary.of(config)
        self.windows = tuple({config.window(layer): None for layer in range(config.n_layers)})
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.layers = nn.ModuleList(_blocks(config))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        tied = config.tie_embeddings
        self.head = None if tied else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.ahead = nn.ModuleList(MTPModule(config) for _ in range(config.n_ahead))
        for weight in (self.embedding, self.head):
            if weight is not None:
                nn.init.normal_(weight, std=config.d_model**-0.5)

    def cast_blocks(self, dtype: torch.dtype) -> Transformer:
        """Cast the blocks in place; embedding, last norm and head keep their dtype."""
        self.layers.to(dtype)
        for module in cast("Iterable[MTPModule]", self.ahead):
            module.cast_block(dtype)
        return self

    @property
    def checkpointing(self) -> Checkpointing:
        """Activation checkpointing of the blocks, see layers/recompute.py; settable: none, full, selective."""
        return cast("Block", self.layers[0]).checkpointing

    @checkpointing.setter
    def checkpointing(self, mode: str) -> None:
        for block in (*self.layers, *(module.block for module in self.ahead)):
            block.checkpointing = checked(mode)

    @property
    def dtype(self) -> torch.dtype:
        """The blocks' dtype, which is also that of keys and values."""
        return next(self.layers.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def head_weight(self) -> nn.Parameter:
        """Weight of the head [V, D]: the embedding if they are tied."""
        return self.embedding if self.head is None else self.head

    def forward(
        self, tokens_BS: Tensor, *, positions_BS: Tensor | None = None, documents_BS: Tensor | None = None
    ) -> Tensor:
        """Whole sequences without a cache: ids [B, S] -> fp32 logits [B, S, V]; the rest is as for `hidden`."""
        return self.logits(self.hidden(tokens_BS, positions_BS=positions_BS, documents_BS=documents_BS))

    def hidden(
        self, tokens_BS: Tensor, *, positions_BS: Tensor | None = None, documents_BS: Tensor | None = None
    ) -> Tensor:
        """The residual stream [B, S, D] after the last block, before the last norm.

        `documents_BS`: integer ids of the documents that are packed one after the other in a row; a token attends within its own.
        `positions_BS`: rotary positions, each below `max_context`, starting again with each document; 0, 1 ... S-1
        where None.
        """
        rotation, spans = self.rotation_and_spans(tokens_BS, positions_BS, documents_BS)
        x_BSD = self.embed(tokens_BS)
        for block in cast("Iterable[Block]", self.layers):
            x_BSD = block(x_BSD, rotation, spans[block.window])
        return x_BSD

    def logits(self, x: Tensor) -> Tensor:
        """fp32 logits [..., V] of residual streams [..., D]: last norm and head."""
        return self._head(self.norm(x))

    def mtp_hidden(
        self,
        x_BSD: Tensor,
        tokens_BS: Tensor,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> list[Tensor]:
        """Input of the head for each MTP module, [B, S, D], from what `hidden` returned.

        For training. Module i predicts token p + i + 2 at position p. At the last i + 2 positions of a row, or of a
        document in packed rows, there is no such token, so its output must enter no loss.
        """
        rotation, spans = self.rotation_and_spans(tokens_BS, positions_BS, documents_BS)
        normed: list[Tensor] = []
        for depth, module in enumerate(cast("Iterable[MTPModule]", self.ahead)):
            embedded_BSD = F.embedding(tokens_after(tokens_BS, depth + 1), self.embedding)
            x_BSD = module(x_BSD, embedded_BSD, rotation, spans[module.block.window])
            normed.append(module.norm(x_BSD))
        return normed

    def mtp_logits(
        self,
        x_BSD: Tensor,
        tokens_BS: Tensor,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> list[Tensor]:
        """fp32 logits [B, S, V] of each MTP module, from the streams of `mtp_hidden`."""
        packing = {"positions_BS": positions_BS, "documents_BS": documents_BS}
        return [self._head(x_BSD) for x_BSD in self.mtp_hidden(x_BSD, tokens_BS, **packing)]

    @torch.inference_mode()
    def step_hidden(
        self, parts: Sequence[tuple[KeyValueStore, Sequence[int]]], n_logits: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """One pass over the new token ids of N sequences, each after the past in its store.

        Returns the residual stream [T, D] of all new tokens, and the rows of each sequence's last token, or, part by part,
        of the last `n_logits` of each. The stores hold the new keys and values at once; their
        owner advances their length when the step has succeeded, so a failed step leaves no trace.
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
        segments = {
            window: [segment(store, len(new), self.device, window) for store, new in parts]
            for window in self.windows
        }
        rotation = self._rotation_behind(parts, torch.tensor(positions, device=self.device))
        x_TD = self.embed(torch.tensor(ids, device=self.device))
        for block in cast("Iterable[Block]", self.layers):
            x_TD = block.forward_cached(x_TD, rotation, segments[block.window])
        if n_logits is not None:
            last = [end - n + i for end, n in zip(last, n_logits, strict=True) for i in range(1, n + 1)]
        return x_TD, last

    @torch.inference_mode()
    def step(
        self, parts: Sequence[tuple[KeyValueStore, Sequence[int]]], n_logits: Sequence[int] | None = None
    ) -> Tensor:
        """As `step_hidden`, returning the logits [N, V] of the rows that it names."""
        x_TD, rows = self.step_hidden(parts, n_logits)
        return self.logits(x_TD[rows])

    @torch.inference_mode()
    def mtp_step(
        self, depth: int, x_TD: Tensor, tokens: Sequence[int], store: KeyValueStore
    ) -> tuple[Tensor, Tensor]:
        """MTP module `depth` over consecutive positions of one sequence, after its past there.

        `x_TD` is what `step_hidden`, or the module before, returned for those positions; `tokens` are those
        `depth` + 1 positions later. Returns the residual stream [T, D] for the next module, and the logits [V] of the
        last position, for the token one position later still.
        """
        module = cast("MTPModule", self.ahead[depth])
        positions_T = torch.arange(store.length, store.length + len(tokens), device=self.device)
        rotation = self._rotation_behind([(store, tokens)], positions_T)
        new = segment(store, len(tokens), self.device, module.block.window)
        embedded_TD = self.embed(torch.tensor(tokens, device=self.device))
        x_TD = module.block.forward_cached(module.join(x_TD, embedded_TD), rotation, [new])
        return x_TD, self._head(module.norm(x_TD[-1]))

    def embed(self, tokens: Tensor) -> Tensor:
        """The input of the first block [..., D] for ids [...]."""
        return F.embedding(tokens, self.embedding)

    def rotation_and_spans(
        self, tokens_BS: Tensor, positions_BS: Tensor | None = None, documents_BS: Tensor | None = None
    ) -> tuple[Rotation, Spans]:
        """Further inputs of the blocks: `block(x_BSD, rotation, spans[block.window])`.

        Raises ValueError where rows without positions exceed the context.
        """
        n_tokens, max_context = tokens_BS.shape[1], self.config.max_context
        if positions_BS is None:
            if n_tokens > max_context:
                raise ValueError(
                    f"rows of {n_tokens} tokens exceed the context of {max_context}: cut them, or give positions_BS"
                )
            positions_BS = torch.arange(n_tokens, device=tokens_BS.device)
        lengths_BS = None
        if self.rotary.is_dynamic and documents_BS is not None:
            lengths_BS = document_lengths(documents_BS, positions_BS)
        rotation = self.rotary.at(positions_BS, self.dtype, lengths_BS)
        spans = {
            window: first_seen(n_tokens, documents_BS=documents_BS, window=window, device=tokens_BS.device)
            for window in self.windows
        }
        return rotation, spans

    def _rotation_behind(
        self, parts: Sequence[tuple[KeyValueStore, Sequence[int]]], positions_T: Tensor
    ) -> Rotation:
        lengths_T = None
        if self.rotary.is_dynamic:
            lengths = [store.length + len(new) for store, new in parts for _ in new]
            lengths_T = torch.tensor(lengths, device=self.device)
        return self.rotary.at(positions_T, self.dtype, lengths_T)

    def _head(self, normed: Tensor) -> Tensor:
        return F.linear(normed, self.head_weight).float()


def _blocks(config: ModelConfig) -> list[Block]:
    """Make all layers; those that share weights use their owners'."""
    blocks: list[Block] = []
    for layer in range(config.n_layers):
        attention, ffn = config.attention_owner(layer), config.ffn_owner(layer)
        blocks.append(
            Block(
                config,
                layer,
                attention_of=None if attention == layer else blocks[attention],
                ffn_of=None if ffn == layer else blocks[ffn],
            )
        )
    return blocks
