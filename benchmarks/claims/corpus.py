"""The text that claims train on: this machine's own corpora, cut to a size that a claim can afford.

`settings`: `corpora` by name, `most_bytes` of each or null for all, `vocab_size`. Leaves a data folder behind (model/data).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.scale import Scale
from model.data.build import Settings, build
from model.data.corpora.registry import Corpus, built_in_corpora, select
from model.data.corpora.text_documents import TextDocument

# With every full installation of Python: the same on every machine of one version, so that figures compare.
CORPORA = ("python-docstrings", "python-topics", "python-sources", "python-instructions")
VOCABULARY: dict[Scale, int] = {"quick": 1024, "full": 2048}
MOST_BYTES: dict[Scale, int] = {"quick": 1_000_000, "full": 4_000_000}  # of each corpus


def corpus_job(scale: Scale) -> Job:
    return Job(
        "corpus",
        {"corpora": list(CORPORA), "most_bytes": MOST_BYTES[scale], "vocab_size": VOCABULARY[scale]},
    )


@dataclass(frozen=True)
class Corpora:
    """A built data folder by the key of the job that made it, and its vocabulary."""

    key: str
    vocab_size: int


def corpora(bench: Bench, scale: Scale) -> Corpora:
    """The scale's data folder, which is built where it is not there yet."""
    result = bench.one(corpus_job(scale), "corpus")
    return Corpora(result["key"], result["vocab_size"])


def work(settings: dict[str, Any], made: Path) -> Result:
    chosen = select(tuple(settings["corpora"]), built_in_corpora())
    data = build(
        made,
        [limited(corpus, settings["most_bytes"]) for corpus in chosen],
        settings=Settings(vocab_size=settings["vocab_size"], held_out_share=0.1),
        replace=True,
    )
    return {
        "vocab_size": data.tokenizer.vocab_size,
        "tokens": {
            side: {kind: int(documents.lengths.sum()) for kind, documents in data.sources(side).items()}
            for side in ("train", "held_out")
        },
    }


def limited(corpus: Corpus, most_bytes: int | None) -> Corpus:
    """The same corpus up to the document that reaches `most_bytes`, in its own order; the rest is not even read."""
    return (
        corpus if most_bytes is None else dataclasses.replace(corpus, read=_within(corpus.read, most_bytes))
    )


def _within(
    read: Callable[[], Iterator[TextDocument]], most_bytes: int
) -> Callable[[], Iterator[TextDocument]]:
    def documents() -> Iterator[TextDocument]:
        n_bytes = 0
        for document in read():
            yield document
            n_bytes += document.n_bytes
            if n_bytes >= most_bytes:
                return

    return documents
