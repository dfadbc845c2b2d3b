"""The key/value cache of one sequence. Knows nothing of requests or of how attention uses it."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import ModelConfig

BLOCK_TOKENS = (
    256  # capacity grows by whole blocks, so that a long answer is not paid for before it is written
)


class SequenceCache:
    """Keys and values of one sequence, [layers, 2, G, capacity, C]; implements attention's KeyValueStore."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._max_context = config.max_context
        self._length = 0
        shape = (config.n_layers, 2, config.n_kv_heads, 0, config.d_head)
        self._memory = torch.empty(shape, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        return self._length

    @property
    def n_bytes(self) -> int:
        """Bytes held, used or not."""
        return self._memory.numel() * self._memory.element_size()

    def bytes_for(self, n_tokens: int) -> int:
        """Bytes that a sequence of this length will hold."""
        layers, two, heads, _, d_head = self._memory.shape
        return layers * two * heads * d_head * self._capacity_for(n_tokens) * self._memory.element_size()

    def _capacity_for(self, n_tokens: int) -> int:
        return min(-(-n_tokens // BLOCK_TOKENS) * BLOCK_TOKENS, self._max_context)

    def reserve(self, n_tokens: int) -> None:
        """Makes room for `n_tokens` new ones. Raises ValueError beyond the model's context."""
        needed = self._length + n_tokens
        if needed > self._max_context:
            raise ValueError(f"a sequence of {needed} tokens exceeds the context of {self._max_context}")
        capacity = self._memory.shape[3]
        if needed <= capacity:
            return
        shape = (*self._memory.shape[:3], self._capacity_for(needed), self._memory.shape[4])
        memory = torch.empty(shape, dtype=self._memory.dtype, device=self._memory.device)
        memory[:, :, :, : self._length] = self._memory[:, :, :, : self._length]
        self._memory = memory

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor) -> tuple[Tensor, Tensor]:
        """Writes behind the past without moving `length`; returns keys and values so far, each [G, S, C]."""
        n_tokens = k_TGC.shape[0]
        self.reserve(n_tokens)
        end = self._length + n_tokens
        keys, values = self._memory[layer]
        keys[:, self._length : end] = k_TGC.transpose(0, 1)
        values[:, self._length : end] = v_TGC.transpose(0, 1)
        return keys[:, :end], values[:, :end]

    def advance(self, n_tokens: int) -> None:
        """Counts written tokens as past."""
        end = self._length + n_tokens
        if end > self._memory.shape[3]:
            raise ValueError("cannot advance over tokens that were never written")
        self._length = end
