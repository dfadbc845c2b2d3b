"""Executor of plain torch: a paged key/value cache under the transformer, any attention kind, any device.

Every layer's attention reads its past from a `KeyValueStore`; here that is a view if a sequence's blocks are adjacent,
else a gathered copy. torch chooses matrix kernels by the number of rows, so the last bits of a sequence's logits may
depend on the rest of the step; executors with their own kernels do not have that effect. Blocks that every layer's
window has passed are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.serving.engine.cache import kept_per_token, widest_window
from model.serving.executors.base import Part, on_host
from model.transformer import Transformer

BLOCK_TOKENS = 16


def bytes_per_block(transformer: Transformer, block_tokens: int = BLOCK_TOKENS) -> int:
    """Bytes of a block: keys and values of all layers, in the blocks' dtype."""
    n_heads, d_key, d_value = kept_per_token(transformer.config)
    per_token = transformer.config.n_layers * n_heads * (d_key + d_value) * transformer.dtype.itemsize
    return block_tokens * per_token


class TorchExecutor:
    """Executor over a `Transformer`; its cache is allocated at once, and its pages are touched as they are used."""

    def __init__(self, transformer: Transformer, n_blocks: int, *, block_tokens: int = BLOCK_TOKENS) -> None:
        self._transformer = transformer
        self.block_tokens, self.n_blocks = block_tokens, n_blocks
        self.bytes_per_block = bytes_per_block(transformer, block_tokens)
        self._window = widest_window(transformer.config)
        n_layers = transformer.config.n_layers
        n_heads, d_key, d_value = kept_per_token(transformer.config)
        shape = (n_layers, n_heads, n_blocks * block_tokens)
        options: dict[str, Any] = {"dtype": transformer.dtype, "device": transformer.device}
        self._keys = torch.empty((*shape, d_key), **options)
        self._values = torch.empty((*shape, d_value), **options)

    @property
    def transformer(self) -> Transformer:
        return self._transformer

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """As `Executor.step`. Raises ValueError for a part that is empty, too long, or beyond its blocks, or lacks one."""
        return on_host(self._transformer.step(self._stored(parts), [part.n_logits for part in parts]))

    def _stored(self, parts: Sequence[Part]) -> list[tuple[PagedStore, Sequence[int]]]:
        """The parts' tokens, each with its store; raises as `step`."""
        for part in parts:
            self._check(part)
        return [
            (PagedStore(self._keys, self._values, self.block_tokens, part, self._window), part.tokens)
            for part in parts
        ]

    def _check(self, part: Part) -> None:
        end = part.past + len(part.tokens)
        if not part.tokens:
            raise ValueError("each part needs new tokens")
        if end > len(part.blocks) * self.block_tokens:
            raise ValueError(f"{end} tokens do not fit into {len(part.blocks)} blocks of {self.block_tokens}")
        if min(part.seen_blocks(self._window, self.block_tokens)[1]) < 0:
            raise ValueError("a part's table lacks a block that its new tokens attend to")
        if not 0 <= part.n_logits <= len(part.tokens):
            raise ValueError(f"{part.n_logits} logits are asked for after {len(part.tokens)} new tokens")

    def copy_block(self, source: int, target: int) -> None:
        size = self.block_tokens
        for memory in (self._keys, self._values):
            memory[:, :, target * size : (target + 1) * size] = memory[
                :, :, source * size : (source + 1) * size
            ]


class PagedStore:
    """One part's past within the paged memory [layers, G, slots, C]; implements attention's KeyValueStore.

    With a `window` the past before it is missing.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, block_tokens: int, part: Part, window: int | None = None
    ) -> None:
        self.length = part.past
        self._keys, self._values = keys, values
        self._n_new = len(part.tokens)
        n_gone, blocks = part.seen_blocks(window, block_tokens)
        self._first = n_gone * block_tokens  # the first position that is kept
        n_kept = self.length + self._n_new - self._first
        blocks = blocks[: -(-n_kept // block_tokens)]
        start = blocks[0] * block_tokens
        is_one_piece = list(blocks) == list(range(blocks[0], blocks[0] + len(blocks)))
        self._piece = slice(start, start + n_kept) if is_one_piece else None
        if self._piece is None:
            offsets = torch.arange(block_tokens, device=keys.device)
            table = torch.tensor(blocks, device=keys.device)
            self._slots = (table[:, None] * block_tokens + offsets).flatten()[:n_kept]

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """As `KeyValueStore.extend`. Raises ValueError for a `first` before the window."""
        if first < self._first:
            raise ValueError(f"position {first} was given back: the past begins at {self._first}")
        return (
            self._extend(self._keys[layer], k_TGC, first - self._first),
            self._extend(self._values[layer], v_TGC, first - self._first),
        )

    def _extend(self, memory: Tensor, new_TGC: Tensor, start: int) -> Tensor:
        new_GTC = new_TGC.transpose(0, 1)
        if self._piece is not None:
            memory[:, self._piece.stop - self._n_new : self._piece.stop] = new_GTC
            return memory[:, self._piece.start + start : self._piece.stop]
        memory.index_copy_(1, self._slots[-self._n_new :], new_GTC)
        return memory.index_select(1, self._slots[start:])
