"""Held-out loss through a node's API, for gains that were judged by the quality route and may change answers.

A node is asked for one token with its likeliest alternatives, after a part of a shipped text whose next token it was
not told. The score is the logarithm of what its distribution gave to that token: a proper scoring rule, so no other
distribution than the one it believes in is expected to score better. Who knows the shipped text by heart does score
better; the judge's quality suite, whose texts are secret, has judged that before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.canary.answers import Answer
from model.serving.api.tokenizer import Tokenizer

TEXT = Path(__file__).with_name("held_out.txt")
TOP = 20  # alternatives that a node shows at most
MOST_TOKENS = 1 << 18  # ids that are looked for in a tokenizer
LEAST_TAIL = 1e-6
CONTEXT = 64  # tokens before the one that is scored
MICRO = 1_000_000
ROUNDING = 1e-3  # by which shown probabilities may add up to more than one

Position = tuple[tuple[int, ...], str]
"""The tokens of a prompt, and the text of the next one."""


class NoDistribution(ValueError):
    """What a node shows is no distribution over tokens."""


def positions(tokenizer: Tokenizer) -> list[Position]:
    """All places of the shipped text at which a token is scored."""
    ids = tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    found = []
    for place in range(CONTEXT, len(ids)):
        text = tokenizer.token_bytes(ids[place]).decode("utf-8", errors="ignore")
        if text.isascii() and text:
            found.append((tuple(ids[place - CONTEXT : place]), text))
    return found


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """How many tokens stand for text."""
    return sum(bool(tokenizer.token_bytes(token)) for token in range(MOST_TOKENS))


def drawn(found: Sequence[Position], order: random.Random, number: int, count: int) -> list[Position]:
    """`count` places of round `number`: no place is drawn in two rounds, as far as the text has enough."""
    shuffled = list(found)
    order.shuffle(shuffled)
    start = number * count % max(1, len(shuffled) - count)
    return shuffled[start : start + count]


def loss_micro_nats(answer: Answer, target: str, vocabulary: int) -> int:
    """-ln of what the answer's distribution gave to the token, in millionths of a nat. Raises NoDistribution.

    What it leaves to the tokens that it does not show is spread over them evenly.
    """
    shown = distribution(answer.top)
    if target in shown:
        return math.ceil(-math.log(shown[target]) * MICRO)
    tail = max(LEAST_TAIL, 1 - math.fsum(shown.values()))
    return math.ceil(-math.log(tail / max(1, vocabulary - len(shown))) * MICRO)


def distribution(top: Mapping[str, float]) -> dict[str, float]:
    """Probabilities by token. Raises NoDistribution for more alternatives, or more probability, than there can be."""
    if not 0 < len(top) <= TOP + 1 or not all(-10_000 <= value <= 0 for value in top.values()):
        raise NoDistribution("log probabilities that are none")
    shown = {token: max(math.exp(value), 1e-300) for token, value in top.items()}
    if (total := math.fsum(shown.values())) > 1 + ROUNDING:
        raise NoDistribution(f"probabilities that add up to {total:.3f}")
    return shown
