"""Small corpora of every kind, and a data folder that is built from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model.data.build import Settings, build
from model.data.corpora.registry import Corpus, Kind
from model.data.corpora.text_documents import TextDocument

SETTINGS = Settings(vocab_size=400, held_out_share=0.3, longest_instruction=60, shard_tokens=2_000)


def corpus(name: str, kind: Kind, n_documents: int = 40) -> Corpus:
    def read() -> Iterator[TextDocument]:
        for number in range(n_documents):
            text = " ".join(f"{name} {number} {word * number} {name[::-1]}" for word in range(3 + number % 7))
            answer = f"answer {number} " * (1 + number) if kind == "instruction" else None
            yield TextDocument(
                name, f"licence of {name}", f"{name}/{number}", f"{name}/{number}", text, answer
            )

    return Corpus(name, kind, f"licence of {name}", "made here", f"install {name}", read)


PROSE, CODE, CHAT = corpus("prose", "general"), corpus("code", "domain"), corpus("chat", "instruction")


ABSENT = corpus("absent", "general", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "data"
    build(path, [PROSE, ABSENT, CODE, CHAT], settings=SETTINGS)
    return path
