"""Drives an executor as the engine does: sequences with block tables of their own, in no order, over one pool.

With the `window` of a model whose layers all have one, tables lack the blocks behind it, as the engine's do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from model.serving.engine.blocks import GONE, first_seen_block
from model.serving.executors.base import Executor, Part
from tests.model.serving.executors.executor_steps import logits_of


class Sequences:
    """Greedy or given continuations of several sequences; blocks are handed out in random order."""

    def __init__(self, executor: Executor, vocab_size: int, seed: int = 0, window: int | None = None) -> None:
        self.executor, self.vocab_size, self.window = executor, vocab_size, window
        self._random = random.Random(seed)  # of tokens: the same over pools of any size
        self._free = list(range(executor.n_blocks))
        random.Random(seed).shuffle(self._free)
        self.tokens: dict[int, list[int]] = {}
        self._past: dict[int, int] = {}
        self._blocks: dict[int, list[int]] = {}

    def part(self, sequence: int, tokens: Sequence[int], n_logits: int = 1) -> Part:
        """New tokens of a sequence, which begins with its first part; blocks are taken as they are needed."""
        blocks, past = self._blocks.setdefault(sequence, []), self._past.setdefault(sequence, 0)
        while len(blocks) * self.executor.block_tokens < past + len(tokens):
            blocks.append(self._free.pop())
        self._past[sequence] = past + len(tokens)
        self.tokens.setdefault(sequence, []).extend(tokens)
        n_gone = first_seen_block(past, self.window, self.executor.block_tokens)
        return Part(list(tokens), past, [GONE] * n_gone + blocks[n_gone:], n_logits)

    def random_tokens(self, n: int) -> list[int]:
        return [self._random.randrange(self.vocab_size) for _ in range(n)]


def served_mix(
    executor: Executor, vocab_size: int, n_decoded: int = 6, window: int | None = None
) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Prompts in chunks beside decoding sequences, drafts, then greedy decoding; all logits and all tokens."""
    sequences = Sequences(executor, vocab_size, window=window)
    draw, part = sequences.random_tokens, sequences.part
    logits = [
        logits_of(executor, [part(0, draw(5)), part(1, draw(21), 0)]),
        logits_of(executor, [part(0, draw(1)), part(1, draw(4)), part(2, draw(3), 2)]),
        logits_of(executor, [part(2, draw(3), 3)]),
        logits_of(executor, [part(3, draw(1), 0)]),
    ]
    last = logits_of(executor, [part(sequence, draw(1)) for sequence in range(4)])
    for _ in range(n_decoded):
        logits.append(last)
        last = logits_of(
            executor,
            [part(sequence, [int(row.argmax())]) for sequence, row in zip(range(4), last, strict=True)],
        )
    return [*logits, last], [sequences.tokens[sequence] for sequence in range(4)]
