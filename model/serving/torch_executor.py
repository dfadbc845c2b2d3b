"""The executor of plain torch: a paged key/value cache under the transformer as it is, any attention kind, any device.

Every layer's attention asks a `KeyValueStore` for its past; here that is a view where a sequence's blocks lie side by
side, and a gathered copy where they do not. How many rows a step has decides which matrix kernels torch takes, so the
last bits of a sequence's logits may depend on what rides along; executors with kernels of their own promise more.
Windows save time, not memory: old blocks stay. Knows nothing of requests, sampling or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.serving.cache import kept_per_token
from model.serving.executor import Part
from model.transformer import Transformer

BLOCK_TOKENS = 16


def bytes_per_block(transformer: Transformer, block_tokens: int = BLOCK_TOKENS) -> int:
    """Keys and values of all layers, in the blocks' dtype."""
    n_heads, d_key, d_value = kept_per_token(transformer.config)
    per_token = transformer.config.n_layers * n_heads * (d_key + d_value) * transformer.dtype.itemsize
    return block_tokens * per_token


class TorchExecutor:
    """Implements `Executor` over a `Transformer`; its cache is allocated at once, touched as it is used."""

    def __init__(self, transformer: Transformer, n_blocks: int, *, block_tokens: int = BLOCK_TOKENS) -> None:
        self._transformer = transformer
        self.block_tokens, self.n_blocks = block_tokens, n_blocks
        self.bytes_per_block = bytes_per_block(transformer, block_tokens)
        n_layers = transformer.config.n_layers
        n_heads, d_key, d_value = kept_per_token(transformer.config)
        shape = (n_layers, n_heads, n_blocks * block_tokens)
        options: dict[str, Any] = {"dtype": transformer.dtype, "device": transformer.device}
        self._keys = torch.empty((*shape, d_key), **options)
        self._values = torch.empty((*shape, d_value), **options)

    @property
    def transformer(self) -> Transformer:
        return self._transformer

    def step(self, parts: Sequence[Part]) -> Tensor:
        """As `Executor.step`. Raises ValueError for a part that is empty, too long, or beyond its blocks."""
        return self._transformer.step(self._stored(parts), [part.n_logits for part in parts]).cpu()

    def _stored(self, parts: Sequence[Part]) -> list[tuple[PagedStore, Sequence[int]]]:
        """The parts' tokens, each with its store; raises as `step`."""
        for part in parts:
            self._check(part)
        return [
            (PagedStore(self._keys, self._values, self.block_tokens, part), part.tokens) for part in parts
        ]

    def _check(self, part: Part) -> None:
        end = part.past + len(part.tokens)
        if not part.tokens:
            raise ValueError("each part needs new tokens")
        if end > len(part.blocks) * self.block_tokens:
            raise ValueError(f"{end} tokens do not fit into {len(part.blocks)} blocks of {self.block_tokens}")
        if not 0 <= part.n_logits <= len(part.tokens):
            raise ValueError(f"{part.n_logits} logits are wanted of {len(part.tokens)} new tokens")

    def copy_block(self, source: int, target: int) -> None:
        size = self.block_tokens
        for memory in (self._keys, self._values):
            memory[:, :, target * size : (target + 1) * size] = memory[
                :, :, source * size : (source + 1) * size
            ]


class PagedStore:
    """One part's past within the paged memory [layers, G, slots, C]; implements attention's KeyValueStore."""

    def __init__(self, keys: Tensor, values: Tensor, block_tokens: int, part: Part) -> None:
        self.length = part.past
        self._keys, self._values = keys, values
        self._end = end = part.past + len(part.tokens)
        blocks = part.blocks[: -(-end // block_tokens)]
        first = blocks[0]
        self._start = (
            first * block_tokens if list(blocks) == list(range(first, first + len(blocks))) else None
        )
        if self._start is None:
            offsets = torch.arange(block_tokens, device=keys.device)
            table = torch.tensor(blocks, device=keys.device)
            self._slots = (table[:, None] * block_tokens + offsets).flatten()[:end]

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor) -> tuple[Tensor, Tensor]:
        """Writes new keys and values behind the past; returns past and new ones, each [G, S, C]."""
        return self._extend(self._keys[layer], k_TGC), self._extend(self._values[layer], v_TGC)

    def _extend(self, memory: Tensor, new_TGC: Tensor) -> Tensor:
        new_GTC = new_TGC.transpose(0, 1)
        if self._start is not None:
            memory[:, self._start + self.length : self._start + self._end] = new_GTC
            return memory[:, self._start : self._start + self._end]
        memory.index_copy_(1, self._slots[self.length :], new_GTC)
        return memory.index_select(1, self._slots)
