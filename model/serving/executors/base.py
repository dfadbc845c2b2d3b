"""Interface of an executor: compute one step over parts of many sequences whose past is in numbered blocks.

An executor owns the model's weights and the memory of the key/value blocks; the engine decides which sequence holds
which block. So plain torch, compiled kernels, several processes and offloading all serve the same scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.serving.engine.blocks import first_seen_block
from model.serving.engine.scheduler import Plan


@dataclass(frozen=True)
class Part:
    """The new tokens of one sequence in a step.

    `tokens` are written at positions `past`, `past` + 1 ...; `blocks` is the sequence's block table and has room for
    them: position p is in `blocks[p // block_tokens]` at offset `p % block_tokens`. It may begin with `GONE` for blocks
    that no new token attends to, since every layer has a window: those are never read. Logits are returned after each of
    the last `n_logits` tokens: 0 within a prompt, 1 for a plain step, more to verify draft tokens.
    """

    tokens: Sequence[int]
    past: int
    blocks: Sequence[int]
    n_logits: int = 1

    def seen_blocks(self, window: int | None, block_tokens: int) -> tuple[int, Sequence[int]]:
        """The blocks that new tokens with this window attend to, and the table's index of the first one."""
        first = first_seen_block(self.past, window, block_tokens)
        return first, self.blocks[first:]


class Executor(Protocol):
    """Interface of an executor of steps. Not thread-safe: one thread calls it."""

    block_tokens: int
    n_blocks: int
    bytes_per_block: int  # keys and values of all layers

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """Logits [sum of n_logits, V], in order of the parts, in the host's memory, where samplers work.

        Writes keys and values of the new tokens into their blocks. A step that raised may be repeated: nothing but
        those positions has changed. The logits of a part do not depend on the other parts of the step.
        """

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block's keys and values in all layers, before a shared block is written."""


def on_host(logits: Tensor) -> NDArray[np.float32]:
    """Copy logits to the host as executors return them; fp32 ones of a CPU are not copied."""
    found: NDArray[np.float32] = logits.detach().float().cpu().numpy()
    return found


def compute(executor: Executor, plan: Plan) -> NDArray[np.float32]:
    """Make the plan's copies and compute its step: logits [sum of the works' n_logits, V], in order of the works."""
    for source, target in plan.copies:
        executor.copy_block(source, target)
    return executor.step(
        [
            Part(work.tokens, work.sequence.n_computed, work.sequence.blocks, work.n_logits)
            for work in plan.works
        ]
    )
