"""Texts of a canary's requests: fresh word sequences from a generator, never users' words.

Common words carry the text, and made-up words stand between them, so that a planted secret looks like any other of
them. The same seed gives the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

COMMON = tuple(Path(__file__).with_name("words.txt").read_text().split())
CONSONANTS, VOWELS = "bdfghklmnprstvz", "aeiou"
SECRET_SYLLABLES = 8  # 16 letters: 75^8 words, so none comes by chance
MADE_UP_SHARE = 0.06
SENTENCE_WORDS = (6, 14)
MOST_WORDS = 100_000

Count = Callable[[str], int]


def made_up_word(order: random.Random, syllables: int = SECRET_SYLLABLES) -> str:
    """A word that no text holds unless it was put there."""
    return "".join(order.choice(CONSONANTS) + order.choice(VOWELS) for _ in range(syllables))


def sentence(order: random.Random) -> str:
    """A sentence of common and some made-up words."""
    words = [
        made_up_word(order) if order.random() < MADE_UP_SHARE else order.choice(COMMON)
        for _ in range(order.randint(*SENTENCE_WORDS))
    ]
    return " ".join(words).capitalize() + "."


def text(order: random.Random, tokens: int, count: Count, *, secret: str = "") -> str:
    """A text of at most `tokens` tokens as `count` counts them, and nearly so many; `secret` is a word of it.

    The first word stays where it alone has more. Raises ValueError where not even the secret has room.
    """
    words = [secret] if secret else []
    if count(" ".join(words)) > tokens:
        raise ValueError(f"a secret does not fit into {tokens} tokens: ask for longer prompts")
    while count(" ".join(words)) < tokens and len(words) < MOST_WORDS:
        missing = tokens - count(" ".join(words))
        added: list[str] = []
        while len(added) < max(1, missing // 8):
            added.extend(sentence(order).split())
        words.extend(added[: max(1, missing // 8)])
    while len(words) > 1 and count(" ".join(words)) > tokens:
        words.pop()
    _fill(words, order, tokens, count)
    if secret:  # anywhere but at the end, where cutting would lose it
        words.insert(order.randrange(len(words)), words.pop(0))
        while len(words) > 1 and count(" ".join(words)) > tokens:
            words.pop(next(place for place, word in enumerate(words) if word != secret))
    return " ".join(words)


def _fill(words: list[str], order: random.Random, tokens: int, count: Count) -> None:
    """Put common words where a long one was dropped: short texts would else be too few to differ."""
    while len(words) < MOST_WORDS:
        word = order.choice(COMMON)
        if count(" ".join([*words, word])) > tokens:
            return
        words.append(word)
