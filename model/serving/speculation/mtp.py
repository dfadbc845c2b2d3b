"""Propose draft tokens with a model's own MTP modules (DeepSeek-V3, arXiv:2412.19437, section 2.2).

Module i reads, at each position, what the module before it (the transformer, for the first) knew there and the token
that lies i + 1 further; so n modules guess the n tokens behind the last known one. Their keys and values are in the
same blocks as the transformer's, and so survive prefix hits, copies and preemption with them; beside them lie the
residual streams that the first module reads, and which token each entry was made with, for entries made with a wrong
guess, or with the token of another answer that shares the block, are made again.
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

Guess = Callable[
    [NDArray[np.float32], int], int
]  # logits [V] and how many tokens ahead they stand -> a token

_NO_TOKEN = -1


class AheadExecutor(TorchExecutor):
    """Computes steps as its parent does, and drafts. Its cache takes some more memory than the parent's."""

    def __init__(self, transformer: Transformer, n_blocks: int, *, block_tokens: int = BLOCK_TOKENS) -> None:
        """Raises ValueError for a model without prediction modules."""
        config = transformer.config
        if config.n_ahead == 0:
            raise ValueError(f"{config.name} has no multi-token prediction modules: use TorchExecutor")
        super().__init__(transformer, n_blocks, block_tokens=block_tokens)
        n_slots = n_blocks * block_tokens
        n_heads, d_key, d_value = kept_per_token(config)
        options: dict[str, Any] = {"dtype": transformer.dtype, "device": transformer.device}
        self._ahead_keys = torch.empty((config.n_ahead, n_heads, n_slots, d_key), **options)
        self._ahead_values = torch.empty((config.n_ahead, n_heads, n_slots, d_value), **options)
        self._stream_dtype = torch.promote_types(transformer.embedding.dtype, transformer.dtype)
        wide = torch.promote_types(
            self._stream_dtype, torch.float32
        )  # so that its size follows from the blocks'
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
        for memory in (self._ahead_keys, self._ahead_values):
            memory[:, :, there] = memory[:, :, here]
        self._streams_SD[there] = self._streams_SD[here]
        self._joined[:, there] = self._joined[:, here]

    def draft(self, tokens: Sequence[int], blocks: Sequence[int], n: int, guess: Guess) -> list[int]:
        """At most `n` guesses of what follows `tokens`, all but the last of which have been computed into `blocks`.

        `guess` chooses each from its module's logits [V], on the CPU.
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
                self._ahead_keys[depth, None], self._ahead_values[depth, None], self.block_tokens, part
            )
            x_TD, logits_V = self.transformer.ahead_step(depth, x_TD, joined, _OneLayer(paged))
            self._joined[depth, slots[start:]] = joined
            known.append(guess(on_host(logits_V), depth))
        return known[len(tokens) :]

    def _first_stale(self, depth: int, tokens: Sequence[int], slots: NDArray[np.intp]) -> int:
        """The first position whose entry in a module was not made with the token that is now known to follow.

        At the last positions nothing is known that far ahead; the very last is always computed, for its guess.
        """
        following = np.asarray(tokens[depth + 1 :], np.int64)
        is_stale = self._joined[depth, slots[: following.size]] != following
        first = int(is_stale.argmax()) if is_stale.any() else following.size
        return min(first, slots.size - 1)

    def _slots(self, blocks: Sequence[int], start: int, end: int) -> NDArray[np.intp]:
        """Where positions `start` to `end` of a sequence lie."""
        positions = np.arange(start, end)
        table = np.asarray(blocks, np.intp)
        return table[positions // self.block_tokens] * self.block_tokens + positions % self.block_tokens


def drafting_bytes(config: ModelConfig, itemsize: int, block_tokens: int) -> int:
    """Bytes that an `AheadExecutor` keeps with each block beside the layers' keys and values, in blocks of this itemsize."""
    n_heads, d_key, d_value = kept_per_token(config)
    of_modules = config.n_ahead * (n_heads * (d_key + d_value) * itemsize + np.dtype(np.int64).itemsize)
    return block_tokens * (of_modules + config.d_model * max(itemsize, torch.float32.itemsize))


class _OneLayer:
    """Another store's only layer, whichever layer it is asked for: a module's block counts itself as the last."""

    def __init__(self, store: PagedStore) -> None:
        self._store = store

    @property
    def length(self) -> int:
        return self._store.length

    def extend(self, layer: int, k_TGC: Tensor, v_TGC: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        return self._store.extend(0, k_TGC, v_TGC, first)


class AheadProposer:
    """Follows one answer; implements `Proposer`."""

    def __init__(self, executor: AheadExecutor, blocks: Callable[[], Sequence[int]], guess: Guess) -> None:
        """`blocks` returns the answer's block table of the moment; `guess` is its sampler's."""
        self._executor, self._blocks, self._guess = executor, blocks, guess

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        return self._executor.draft(tokens, self._blocks(), n, self._guess)
