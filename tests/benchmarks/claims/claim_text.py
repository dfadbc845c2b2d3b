"""Made-up text of each kind, for tests of training jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from model.data.corpora.registry import Corpus, Kind
from model.data.corpora.text_documents import TextDocument

KINDS: tuple[Kind, ...] = ("general", "domain", "instruction")
WORDS = ("red", "green", "blue", "a cat", "the dog", "runs", "sleeps", "under trees", "by night")


def text_documents(kind: Kind) -> Iterator[TextDocument]:
    for number in range(60):
        words = random.Random(f"{kind} {number}").choices(WORDS, k=20 + number % 9)  # no long runs in common
        text, answer = f"{kind} {number}: {' '.join(words)}.", f"{words[0]} {words[1]}"
        yield TextDocument(
            kind, "CC0", str(number), f"{kind}-{number}", text, answer if kind == "instruction" else None
        )


def text_corpus(kind: Kind) -> Corpus:
    return Corpus(kind, kind, "CC0", "made up", "write more", lambda: text_documents(kind))
