"""Executor of the stack's own kernels (model/csrc/serving/): one C call per step.

Weights are packed once, in fp32, bf16 or int8; keys and values are in blocks of 16 tokens, in fp32 where the weights
are and in bf16 otherwise. A sequence's logits are the same bits alone and in any batch, in one chunk or in many, and
with any number of threads.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import native
from model.config import ModelConfig
from model.layers.attention.mla import LATENT_NORM_EPS
from model.serving.engine.cache import widest_window
from model.serving.executors import native_tables as tables
from model.serving.executors.base import Part
from model.serving.executors.kept_weights import kept_weights
from model.serving.executors.native_weights import NativeWeights
from model.serving.executors.packed import KINDS, Weights
from model.serving.executors.packed_memory import huge_zeros
from model.serving.executors.stored import StoredWeights
from model.transformer import Transformer

BLOCK_TOKENS = 16  # BLOCK of serving/model.h
MOST_EXPERTS = 1024  # of a layer; as MOST_WIDTH of a key from serving/model.h
MOST_WIDTH = 2048
INT32 = "i"  # of arrays


def supports(config: ModelConfig) -> str | None:
    """The reason why this executor cannot compute a model; None if it can. `TorchExecutor` computes all."""
    library = native.library()
    if library is None:
        return native.state()
    try:
        tables.check(library)
    except tables.TablesError as error:
        return str(error)
    if config.moe is not None and config.moe.n_experts > MOST_EXPERTS:
        return f"more than {MOST_EXPERTS} experts"
    if _key_width(config) > MOST_WIDTH:
        return f"keys wider than {MOST_WIDTH}"
    return None


def _key_width(config: ModelConfig) -> int:
    """Width of a cached key; absorbed MLA caches latent and rotary key as the key of one head."""
    return config.d_head if config.latent is None else config.latent.kv_rank + config.latent.d_rope


class NativeExecutor:
    """Executor of the compiled kernels. Raises ValueError for a model that `supports` refuses.

    `n_threads` None means torch's number. Memory of the cache is taken as blocks are written. With `consume` the
    transformer's weights are freed as they are packed: it cannot compute afterwards, and a model is in memory once. With
    `stored`, the weights in their files, the transformer is the one from there and never has any; a folder `kept_in`
    then keeps them packed for the next load, see kept_weights.py.
    """

    def __init__(
        self,
        transformer: Transformer,
        n_blocks: int,
        *,
        weights: Weights = "bf16",
        n_threads: int | None = None,
        consume: bool = False,
        stored: StoredWeights | None = None,
        kept_in: Path | None = None,
    ) -> None:
        reason = supports(transformer.config)
        if reason is not None:
            raise ValueError(f"{transformer.config.name} has no compiled executor: {reason}")
        if weights not in get_args(Weights):
            raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, not {weights!r}")
        if n_blocks < 1:
            raise ValueError("n_blocks must be at least 1")
        library = native.library()
        assert library is not None
        self._library = library
        self.config = transformer.config
        self.block_tokens = BLOCK_TOKENS
        self.n_blocks = n_blocks
        self.n_steps = 0
        self.weights = (
            NativeWeights(library, transformer, weights, consume=consume, stored=stored)
            if stored is None or kept_in is None
            else kept_weights(library, stored, weights, kept_in)
        )
        self.expert_load_LE = self.weights.expert_load_LE
        self._rotary = transformer.rotary
        self._window = widest_window(self.config)
        self._model = self._described(n_threads or torch.get_num_threads())
        self._model_at = ctypes.c_void_p(ctypes.addressof(self._model))
        layer_bytes = int(library.serve_block_bytes(ctypes.byref(self._model)))
        self.bytes_per_block = layer_bytes * self.config.n_layers
        heads = self.config.n_layers * self._model.n_kv_heads
        self._cache = huge_zeros(n_blocks * self.bytes_per_block).view(heads, n_blocks, -1)
        self._model.cache = self._cache.data_ptr()
        self._memory = torch.empty(0, dtype=torch.uint8)  # of steps; grows as they need it
        self._memory_at = self._memory_bytes = 0
        self._turn_tables: tuple[Tensor, ...] = ()
        if not self._rotary.is_dynamic:
            self._set_turns(torch.arange(self.config.max_context), None)

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """Logits [sum of n_logits, V], see `Executor.step`. Raises ValueError for a part that cannot be computed."""
        # At one row the weights evict this code from the caches each step: few lines, none of torch.
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        blocks: list[int] = []
        # per part: the start of its table in `blocks`, then first, n and past of a PartRow
        rows: list[tuple[int, int, int, int]] = []
        most_keys = 0
        for part in parts:
            n_tokens, n_keys = len(part.tokens), part.past + len(part.tokens)
            self._check(part, n_keys)
            first, seen = part.seen_blocks(self._window, BLOCK_TOKENS)
            rows.append((len(blocks) - first, len(ids), n_tokens, part.past))
            ids.extend(part.tokens)
            positions.extend(range(part.past, n_keys))
            wanted.extend(range(len(ids) - part.n_logits, len(ids)))
            blocks.extend(seen)
            most_keys = max(most_keys, n_keys)
        if not parts or min(blocks) < 0 or max(blocks) >= self.n_blocks:
            raise ValueError(f"a step needs parts whose blocks are in 0 .. {self.n_blocks - 1}")
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            raise ValueError(f"token ids must be in 0 .. {self.config.vocab_size - 1}")
        turns: Sequence[int] = positions
        if self._rotary.is_dynamic:
            lengths = [part.past + len(part.tokens) for part in parts for _ in part.tokens]
            self._set_turns(torch.tensor(positions), torch.tensor(lengths))
            turns = range(len(ids))
        numbers = array(INT32, [*blocks, *ids, *turns, *wanted])
        blocks_at = numbers.buffer_info()[0]
        ids_at = blocks_at + 4 * len(blocks)
        part_rows = (tables.PartRow * len(rows))(
            *[tables.PartRow(blocks_at + 4 * start, *row) for start, *row in rows]
        )
        logits_NV = np.empty((len(wanted), self.config.vocab_size), np.float32)
        step = tables.Step(
            ids_at,
            ids_at + 4 * len(ids),
            ids_at + 8 * len(ids),
            ctypes.addressof(part_rows),
            logits_NV.__array_interface__["data"][0],
            self._memory_at,
            self._memory_bytes,
            len(ids),
            len(rows),
            len(wanted),
            most_keys,
        )
        if needed := self._library.serve_step(self._model_at, ctypes.byref(step)):
            step.memory, step.memory_bytes = self._grow_memory(needed)
            self._library.serve_step(self._model_at, ctypes.byref(step))
        self.n_steps += 1
        return logits_NV

    def copy_block(self, source: int, target: int) -> None:
        """Copies one block's keys and values in all layers."""
        self._cache[:, target] = self._cache[:, source]

    def _check(self, part: Part, n_keys: int) -> None:
        """Raises ValueError for a part that would make the kernels read or write out of bounds."""
        if not part.tokens or part.past < 0 or n_keys > self.config.max_context:
            raise ValueError("each part needs new tokens that end within max_context")
        if len(part.blocks) * BLOCK_TOKENS < n_keys:
            raise ValueError(f"{n_keys} tokens do not fit into {len(part.blocks)} blocks of {BLOCK_TOKENS}")
        if not 0 <= part.n_logits <= len(part.tokens):
            raise ValueError("a part has logits after its own new tokens only")

    def _grow_memory(self, needed: int) -> tuple[int, int]:
        """Grow the working memory, which later steps reuse, beyond so many bytes; returns its address and size."""
        self._memory = huge_zeros(needed + needed // 4)
        self._memory_at, self._memory_bytes = self._memory.data_ptr(), self._memory.numel()
        return self._memory_at, self._memory_bytes

    def _set_turns(self, positions: Tensor, lengths: Tensor | None) -> None:
        rotation = self._rotary.at(positions.long(), torch.float32, lengths)
        self._turn_tables = (rotation.cos.contiguous(), rotation.sin.contiguous())
        self._model.cos, self._model.sin = (table.data_ptr() for table in self._turn_tables)

    def _described(self, n_threads: int) -> tables.Model:
        config, weights, latent = self.config, self.weights, self.config.latent
        return tables.Model(
            layers=ctypes.addressof(weights.layers),
            embedding=weights.embedding,
            norm=weights.norm,
            head=weights.head,
            n_layers=config.n_layers,
            n_blocks=self.n_blocks,
            n_threads=n_threads,
            d_model=config.d_model,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads if latent is None else 1,
            d_key=_key_width(config),
            d_value=config.d_head if latent is None else latent.kv_rank,
            d_rotary=self._rotary.d_rotary,
            is_interleaved=config.rope_interleaved,
            d_nope=0 if latent is None else latent.d_nope,
            d_out=config.d_head if latent is None else latent.d_value,
            kind=KINDS[weights.weights],
            cache_kind=KINDS["fp32" if weights.weights == "fp32" else "bf16"],
            embedding_kind=KINDS[weights.embedding_kind],
            eps=config.norm_eps,
            latent_eps=LATENT_NORM_EPS,
        )
