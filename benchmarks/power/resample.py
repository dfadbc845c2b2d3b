"""The gate on recorded pairs of this machine, drawn again in blocks: what its real noise would do over many runs.

Blocks of neighbouring pairs keep how pairs resemble their neighbours: the moving-block bootstrap, Künsch, Annals of
Statistics 17 (1989). Nothing here measures or decides a verdict.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.power.batch import gate
from benchmarks.power.cells import CHUNK, PLAN
from benchmarks.power.intervals import at_most, binomial_upper
from benchmarks.report import Row

BLOCKS = (1, 3, 6)
RESAMPLES = 100_000
TARGET = 0.001


def resampled(
    runs: Sequence[Sequence[float]], length: int, rng: np.random.Generator, count: int
) -> NDArray[np.float64]:
    """`count` sequences of as many pairs as the gate may take, made of blocks of `length` neighbours of one run.

    Raises ValueError where no recorded run is that long.
    """
    blocks = np.array(
        [run[start : start + length] for run in runs for start in range(len(run) - length + 1)], dtype=float
    )
    if not len(blocks):
        raise ValueError(f"no recorded run has {length} pairs")
    per_run = -(-PLAN.most_pairs // length)
    chosen = rng.integers(len(blocks), size=(count, per_run))
    return blocks[chosen].reshape(count, -1)[:, : PLAN.most_pairs]


def resample_rows(runs: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> Iterator[Row]:
    """False gains of the gate: pairs moved to median zero, and as they were recorded."""
    middle = float(np.median([value for run in runs for value in run]))
    pairs = sum(map(len, runs))
    for what, shift in (("moved to median zero", middle), ("as recorded", 0.0)):
        for length in BLOCKS:
            if max(map(len, runs)) < length:
                continue
            rng = np.random.default_rng(9_000 + length)
            passed = sum(
                int(
                    gate(
                        resampled(runs, length, rng, min(CHUNK, resamples - start)) - shift, PLAN
                    ).passed.sum()
                )
                for start in range(0, resamples, CHUNK)
            )
            yield Row(
                f"false gain, recorded pairs in blocks of {length}, {what}",
                binomial_upper(passed, resamples),
                "",
                f"<= {TARGET}",
                at_most(passed, resamples, TARGET),
                f"{passed} of {resamples} resampled runs pass; {pairs} pairs of {len(runs)} runs, median "
                f"{100 * middle:+.2f} %; upper 95 % bound of the rate",
            )
