"""Propose draft tokens with a model's own MTP modules (DeepSeek-V3, arXiv:2412.19437, section 2.2).

Module i reads, at each position, the residual stream of the module before it (the transformer, for the first) and the
token i + 1 positions later; so n modules draft the n tokens after the last known one. Their keys and values are in the
same blocks as the transformer's, and so survive prefix hits, copies and preemption with them. The blocks also keep the
residual streams that the first module reads, and the token that each entry was made with: an entry that was made with
a rejected draft token, or with the token of another answer that shares the block, is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.serving.engine.cache import kept_per_token
from model.serving.executors.base import Part, on_host
from model.serving.executors.plain_torch import BLOCK_TOKENS, PagedStore, TorchExecutor
from model.transformer import Transformer

DrawDraft = Callable[
    [NDArray[np.float32], int], int
]  # logits [V] and their distance in tokens -> a draft token

_NO_TOKEN = -1


class AheadExecutor(TorchExecutor):
    """A `TorchExecutor` that also drafts with the MTP modules; its cache takes some more memory."""

    def __init__(self, transformer: Transformer, n_blocks: int, *, block_tokens: int = BLOCK_TOKENS) -> None:
        """Raises ValueError for a model without MTP modules."""
        config = transformer.config
        if config.n_ahead == 0:
            raise ValueError(f"{config.name} has no MTP modules: use TorchExecutor")
        super().__init__(transformer, n_blocks, block_tokens=block_tokens)
        n_slots = n_blocks * block_tokens
        n_heads, d_key, d_value = kept_per_token(config)
        options: dict[str, Any] = {"dtype": transformer.dtype, "device": transformer.device}
        self._mtp_keys = torch.empty((config.n_ahead, n_heads, n_slots, d_key), **options)
        self._mtp_values = torch.empty((config.n_ahead, n_heads, n_slots, d_value), **options)
        self._stream_dtype = torch.promote_types(transformer.embedding.dtype, transformer.dtype)
        wide = torch.promote_types(
            self._stream_dtype, torch.float32
        )  # so that its size follows from the blocks
        self._streams_SD = torch.empty((n_slots, config.d_model), dtype=wide, device=transformer.device)
        self._joined = np.full(
            (config.n_ahead, n_slots), _NO_TOKEN, np.int64
        )  # the tokens that entries were made with
        self.bytes_per_block += drafting_bytes(config, transformer.dtype.itemsize, block_tokens)

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        x_TD, rows = self.transformer.step_hidden(self._stored(parts), [part.n_logits for part in parts])
        start = 0
        for part in parts:
            slots = self._slots(part.blocks, part.past, part.past + len(part.tokens))
            written_TD = x_TD[start : start + len(part.tokens)].to(self._streams_SD.dtype)
            self._streams_SD[torch.from_numpy(slots).to(x_TD.device)] = written_TD
            self._joined[:, slots] = _NO_TOKEN
            start += len(part.tokens)
        return on_host(self.transformer.logits(x_TD[rows]))

    def copy_block(self, source: int, target: int) -> None:
        super().copy_block(source, target)
        size = self.block_tokens
        here, there = slice(source * size, (source + 1) * size), slice(target * size, (target + 1) * size)
        for memory in (self._mtp_keys, self._mtp_values):
            memory[:, :, there] = memory[:, :, here]
        self._streams_SD[there] = self._streams_SD[here]
        self._joined[:, there] = self._joined[:, here]

    def draft(self, tokens: Sequence[int], blocks: Sequence[int], n: int, draw: DrawDraft) -> list[int]:
        """Draft at most `n` tokens after `tokens`, all but the last of which have been computed into `blocks`.

        `draw` chooses each from its module's logits [V], on the CPU.
        """
        n_computed = len(tokens) - 1
        n = min(n, self.transformer.config.n_ahead)
        if n_computed < 1 or n < 1:
            return []
        slots = self._slots(blocks, 0, n_computed)
        start = min(self._first_stale(depth, tokens, slots) for depth in range(n))
        places = torch.from_numpy(slots[start:]).to(self._streams_SD.device)
        x_TD = self._streams_SD[places].to(self._stream_dtype)
        known = list(tokens)
        for depth in range(n):
            joined = known[start + depth + 1 :]  # one for each position from `start` on
            part = Part(joined, start, blocks, 1)
            paged = PagedStore(
                self._mtp_keys[depth, None], self._mtp_values[depth, None], self.block_tokens, part
            )
            x_TD, logits_V = self.transformer.mtp_step(depth, x_TD, joined, _OneLayer(paged))
            self._joined[depth, slots[start:]] = joined
            known.append(draw(on_host(logits_V), depth))
        return known[len(tokens) :]

    def _first_stale(self, depth: int, tokens: Sequence[int], slots: NDArray[np.intp]) -> int:
        """The first position whose entry in a module was not made with the token that is now known.

        At the last positions that token is not known yet; the very last one is always computed, for its draft token.
        """
        following = np.asarray(tokens[depth + 1 :], np.int64)
        is_stale = self._joined[depth, slots[: following.size]] != following
        first = int(is_stale.argmax()) if is_stale.any() else following.size
        return min(first, slots.size - 1)

    def _slots(self, blocks: Sequence[int], start: int, end: int) -> NDArray[np.intp]:
        """Slots of a sequence's positions `start` to `end`."""
        positions = np.arange(start, end)
        table = np.asarray(blocks, np.intp)
        return table[positions // self.block_tokens] * self.block_tokens + positions % self.block_tokens


def drafting_bytes(config: ModelConfig, itemsize: int, block_tokens: int) -> int:
    """Bytes that an `AheadExecutor` keeps with each block in addition to the layers' keys and values."""
    n_heads, d_key, d_value = kept_per_token(config)
    of_modules = config.n_ahead * (n_heads * (d_key + d_value) * itemsize + np.dtype(np.int64).itemsize)
    return block_tokens * (of_modules + config.d_model * max(itemsize, torch.float32.itemsize))


class _OneLayer:
    """Adapter to a store of one layer, for any layer number: a module's block has the number of the last layer."""

    def __init__(self, store: PagedStore) -> None:
        self._store = store

    @property
    def length(self) -> int:
        return self._store.length

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        return self._store.extend(0, k_TGC, v_TGC, first)


class MTPProposer:
    """Proposer of one answer with MTP modules."""

    def __init__(self, executor: AheadExecutor, blocks: Callable[[], Sequence[int]], draw: DrawDraft) -> None:
        """`blocks` returns the answer's current block table; `draw` is its sampler's `draft_token`."""
        self._executor, self._blocks, self._draw = executor, blocks, draw

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        return self._executor.draft(tokens, self._blocks(), n, self._draw)
