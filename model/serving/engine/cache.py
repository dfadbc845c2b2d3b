"""The key/value cache of one sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import ModelConfig

BLOCK_TOKENS = (
    256  # capacity grows by whole blocks, so that memory of a long answer is taken as it is written
)


class SequenceCache:
    """Keys [layers, G, capacity, C] and values of one sequence; implements attention's KeyValueStore.

    MLA keeps one vector of latent and rotary key per token and layer, as a key without a value.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._max_context = config.max_context
        self._length = 0
        n_heads, d_key, d_value = kept_per_token(config)
        self._keys = torch.empty((config.n_layers, n_heads, 0, d_key), dtype=dtype, device=device)
        self._values = torch.empty((config.n_layers, n_heads, 0, d_value), dtype=dtype, device=device)

    @property
    def length(self) -> int:
        return self._length

    @property
    def n_bytes(self) -> int:
        """Bytes held, used or not."""
        return self._capacity * self._bytes_per_token

    @property
    def _capacity(self) -> int:
        return self._keys.shape[2]

    @property
    def _bytes_per_token(self) -> int:
        n_layers, n_heads, _, d_key = self._keys.shape
        return n_layers * n_heads * (d_key + self._values.shape[3]) * self._keys.element_size()

    def _capacity_for(self, n_tokens: int) -> int:
        return min(-(-n_tokens // BLOCK_TOKENS) * BLOCK_TOKENS, self._max_context)

    def reserve(self, n_tokens: int) -> None:
        """Make room for `n_tokens` new ones. Raises ValueError beyond the model's context."""
        needed = self._length + n_tokens
        if needed > self._max_context:
            raise ValueError(f"a sequence of {needed} tokens exceeds the context of {self._max_context}")
        if needed <= self._capacity:
            return
        capacity = self._capacity_for(needed)
        self._keys = self._grown(self._keys, capacity)
        self._values = self._grown(self._values, capacity)

    def _grown(self, memory: Tensor, capacity: int) -> Tensor:
        """Copy the past into larger memory."""
        grown = memory.new_empty((*memory.shape[:2], capacity, memory.shape[3]))
        grown[:, :, : self._length] = memory[:, :, : self._length]
        return grown

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Write after the past without changing `length`; returns keys and values from `first` on, each [G, S, C]."""
        n_tokens = k_TGC.shape[0]
        self.reserve(n_tokens)
        end = self._length + n_tokens
        keys, values = self._keys[layer], self._values[layer]
        keys[:, self._length : end] = k_TGC.transpose(0, 1)
        values[:, self._length : end] = v_TGC.transpose(0, 1)
        return keys[:, first:end], values[:, first:end]

    def advance(self, n_tokens: int) -> None:
        """Count written tokens as past."""
        end = self._length + n_tokens
        if end > self._capacity:
            raise ValueError("cannot advance over tokens that were never written")
        self._length = end


def widest_window(config: ModelConfig) -> int | None:
    """The widest sliding window of a served model's layers, the query included; None if one layer has no window.

    Also None for a model with MTP modules: these read their own past, which is in the same blocks.
    """
    windows = [config.window(layer) for layer in range(config.n_layers)]
    if config.n_ahead or None in windows:
        return None
    return max(window for window in windows if window is not None)


def kept_per_token(config: ModelConfig) -> tuple[int, int, int]:
    """Number of heads, width of keys and width of values that each layer caches of a token."""
    if config.latent is not None:
        return 1, config.latent.kv_rank + config.latent.d_rope, 0
    return config.n_kv_heads, config.d_head, config.d_head
