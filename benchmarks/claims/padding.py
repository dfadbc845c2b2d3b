"""Dynamic batching and packing: tokens of padding on the length distributions of real text.

The baseline is shuffled documents in batches of equal height, each as wide as its longest; bucketing sorts like lengths
together under the same token budget; packing puts several documents into a sequence. Lengths are those of this machine's
corpora, cut where they are longer than a sequence, alike for all three. What the stream really delivers is counted too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.corpus import corpora
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.report import Row
from model.data.arrow.data_folder import open_data_folder
from model.data.batches.curriculum import Curriculum, Stage
from model.data.batches.padding import padding_shares
from model.data.batches.stream import DataStream, Layout

LEAST_SAVED = 0.65
SEQUENCE_LENGTH, BATCH_TOKENS = 2048, 16_384
SEEDS = (0, 1, 2)
WAYS: dict[str, Layout] = {"packing": "packed", "dynamic batching": "bucketed"}
STREAMED_BATCHES: dict[Scale, int] = {"quick": 20, "full": 200}


def work(settings: dict[str, Any], made: Path) -> Result:
    """Shares of padding by kind: each way's planned one for each seed, and the stream's own."""
    sources = open_data_folder(made.parent / settings["data"]).sources()
    lengths = {kind: documents.lengths for kind, documents in sources.items()}
    lengths["all kinds"] = np.concatenate(list(lengths.values()))
    shares = {
        kind: [
            vars(padding_shares(of_kind, SEQUENCE_LENGTH, BATCH_TOKENS, seed)) for seed in settings["seeds"]
        ]
        for kind, of_kind in lengths.items()
    }
    streamed: dict[str, dict[str, float]] = {}
    for kind, documents in sources.items():
        streamed[kind] = {}
        for layout in WAYS.values():
            stage = Stage(kind, 1.0, {kind: 1.0}, SEQUENCE_LENGTH, mask="all")
            stream = DataStream(
                {kind: documents}, Curriculum((stage,), 10**9), batch_tokens=BATCH_TOKENS, layout=layout
            )
            with stream:
                batches = list(itertools.islice(stream, settings["batches"]))
            streamed[kind][layout] = 1 - sum(b.n_tokens for b in batches) / sum(b.n_cells for b in batches)
    return {
        "shares": shares,
        "streamed": streamed,
        "documents": {kind: len(of_kind) for kind, of_kind in lengths.items()},
        "median_length": {kind: float(np.median(of_kind)) for kind, of_kind in lengths.items()},
    }


def measure(bench: Bench, scale: Scale) -> Measured:
    data = corpora(bench, scale)
    settings = {"data": data.key, "seeds": list(SEEDS), "batches": STREAMED_BATCHES[scale]}
    result = bench.one(Job("padding", settings), "padding")
    return Measured(decide(result, scale), [_figure(result)])


def decide(result: Mapping[str, Any], scale: Scale) -> list[Row]:
    """One row a way and kind of text, all kinds together first."""
    kinds = sorted(result["shares"], key=lambda kind: kind != "all kinds")
    return [_row(result, way, kind, scale) for way in WAYS for kind in kinds]


def _row(result: Mapping[str, Any], way: str, kind: str, scale: Scale) -> Row:
    field = WAYS[way]
    shares = result["shares"][kind]
    change = Spread.of([100 * change_of_tokens(share["padded"], share[field]) for share in shares])
    padded, mine = (Spread.of([100 * share[name] for share in shares]) for name in ("padded", field))
    streamed = result["streamed"].get(kind, {}).get(field)
    delivered = "" if streamed is None else f"; the stream's own batches hold {100 * streamed:.2f} %"
    return Row(
        f"{way}: padding tokens, {kind}",
        round(change.mean, 1),
        "%",
        f"-{LEAST_SAVED:.0%}",
        change.mean <= -100 * LEAST_SAVED,
        f"{result['documents'][kind]:,} documents of {result['median_length'][kind]:.0f} tokens in the median, "
        f"sequences of {SEQUENCE_LENGTH}, batches of {BATCH_TOKENS:,}: padding {padded.text(1, '%', of='shuffles')} of "
        f"positions in shuffled batches, {mine.mean:.2f} % here{delivered}; {SAYS[scale]}",
    )


def _figure(result: Mapping[str, Any]) -> Figure:
    """Kinds of text by the length of their documents."""
    kinds = sorted(result["streamed"], key=lambda kind: float(result["median_length"][kind]))
    curves = [
        Curve(
            name,
            [result["median_length"][kind] for kind in kinds],
            [100 * Spread.of([share[field] for share in result["shares"][kind]]).mean for kind in kinds],
        )
        for name, field in {"shuffled batches": "padded", **WAYS}.items()
    ]
    return Figure(
        "Padding by the length of documents", "tokens of the median document", "%", curves, is_x_log=True
    )


def change_of_tokens(before: float, after: float) -> float:
    """Change of padding tokens for equal real tokens, from shares of positions; -1 is none left.

    Raises ValueError where there was no padding before.
    """
    if not 0 < before < 1 or not 0 <= after < 1:
        raise ValueError(f"shares of padding must be below 1, the baseline's above 0: {before}, {after}")
    return (after / (1 - after)) / (before / (1 - before)) - 1


CLAIM = Claim("padding", "Dynamic batching and packing leave 65 % less padding on real lengths", measure)
