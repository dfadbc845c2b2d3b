"""Secret text for the training suites: documents of a language that is drawn for the pair and exists nowhere else.

Held-out text must be no file that a sample could read, and nothing that it could be derived from. So each pair has its own
language (`benchmarks.suites.grammar`), seeded by the judge's secret: words, word order, topics and names are drawn, ids are
a secret permutation of the characters, and training and held-out documents are drawn apart. What a model can learn is in
the batches that it is sent; what it could look up is nowhere.

Imports numpy, neither torch nor models.
"""

import random

import numpy as np

from benchmarks.catalogue.training import TEXT_VOCAB
from benchmarks.oracle.transformer import Ids
from benchmarks.suites.grammar import Grammar


class SecretText:
    """Training text and held-out text of one pair, as ids. No document is in both."""

    def __init__(self, rng: np.random.Generator, *, training: int, held_out: int) -> None:
        """Draw at least so many ids of each."""
        self.grammar = Grammar(_seeded(rng))
        self.ids = rng.permutation(TEXT_VOCAB)  # of the characters
        self.training = self._draw(_seeded(rng), training)
        self.held_out = self._draw(_seeded(rng), held_out)

    def _draw(self, rng: random.Random, count: int) -> Ids:
        parts: list[str] = []
        have = 0
        for document in self.grammar.documents(rng):
            parts.append(document)
            have += len(document)
            if have >= count:
                break
        ids: Ids = self.ids[np.frombuffer("".join(parts).encode("ascii"), np.uint8)]
        return ids


def _seeded(rng: np.random.Generator) -> random.Random:
    return random.Random(rng.bytes(32))


def windows(text: Ids, rng: np.random.Generator, count: int, length: int) -> Ids:
    """[count, length] ids from places drawn at random."""
    starts = rng.integers(text.size - length + 1, size=count)
    drawn: Ids = text[starts[:, None] + np.arange(length)]
    return drawn
