"""Lengths of a canary's requests, drawn from what users ask for. No text is read, and none is needed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.canary.order import Shape
from gainshare.capacity.lengths import Lengths, recent_lengths

N_SHAPES = 12
MOST_REQUESTS = 20_000  # the latest, among which they are drawn
MIN_ACCOUNTS = 5  # with fewer, one of them could choose what is measured
MAX_TOKENS = 1 << 20  # of a prompt or an answer; the canary itself shortens what would take it too long
# Short questions, questions with some context, and one long document; as many of each as listed.
DEFAULT = tuple(
    Shape(prompt, output)
    for prompt, output in (
        (16, 16), (24, 32), (32, 16), (32, 32), (48, 24), (64, 16),
        (64, 32), (96, 32), (128, 16), (128, 32), (192, 24), (320, 16),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawn:
    """Shapes, and in words where they come from."""

    shapes: tuple[Shape, ...]
    source: str


def draw(model: str, seed: str) -> Drawn:
    """Shapes for a canary of ``model``; the same rows and seed give the same ones."""
    return draw_from(recent_lengths(model, MOST_REQUESTS), seed)


def draw_from(rows: Sequence[Lengths], seed: str) -> Drawn:
    """Draw an account for each shape, all equally likely, then one of its rows. Pure.

    With fewer than MIN_ACCOUNTS accounts they are the shipped lengths, and the source says so.
    """
    of_account: dict[int, list[Lengths]] = {}
    for row in rows:
        of_account.setdefault(row.account, []).append(row)
    accounts = sorted(of_account)
    if len(accounts) < MIN_ACCOUNTS:
        used = f"{len(accounts)} account{'' if len(accounts) == 1 else 's'}"
        return Drawn(DEFAULT, f"shipped lengths: {used} used the model lately, {MIN_ACCOUNTS} are needed")
    chance = random.Random(seed)
    drawn = [chance.choice(sorted(of_account[chance.choice(accounts)])) for _ in range(N_SHAPES)]
    shapes = tuple(_bounded(row.prompt_tokens, row.output_tokens) for row in drawn)
    return Drawn(shapes, f"usage of {len(accounts)} accounts, each weighing the same")


def _bounded(prompt: int, output: int) -> Shape:
    return Shape(min(max(prompt, 1), MAX_TOKENS), min(max(output, 1), MAX_TOKENS))
