"""Speed of linear maps of many rows: `python -m benchmarks.figures.linear [--json] [--quick]`, two minutes on one core.

    ours      the compiled kernels of `model/layers/linear_fused.py`
    torch     its products of the same tensors, by the library that it calls here

Both run on one core in one process, one call each by turns in random order, on the same tensors: the answer, then both
gradients. Ratios are medians of the ratios within a round; the rows also have what both reach in operations a second.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.commands import ends_plainly
from benchmarks.figures import one_core
from benchmarks.report import MeasuringFailed, Row
from model import native
from model.layers import linear_fused

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS, QUICK_ROUNDS = 15, 3
FORMS = ("ours", "torch")

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """Rows of so many inputs, and how many outputs each gets."""

    what: str
    rows: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"{self.what}: {self.rows:,} rows, {self.inputs:,} to {self.outputs:,}"

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs


SHAPES = (
    Shape("head of 186M", 1024, 512, 49152),
    Shape("queries of 186M", 2048, 512, 1024),
    Shape("keys of 22M", 2048, 256, 128),
    Shape("feed-forward, up", 2048, 1024, 2816),
    Shape("feed-forward, down", 2048, 2816, 1024),
)


def measure(*, rounds: int, shapes: Sequence[Shape] = SHAPES) -> list[Row]:
    """All rows of the formats whose kernels are used here. Raises MeasuringFailed where none are."""
    rows = [
        row
        for name, dtype in DTYPES.items()
        if linear_fused.is_fast(dtype)
        for shape in shapes
        for row in _cell(shape, name, rounds)
    ]
    if not rows:
        raise MeasuringFailed(f"linear maps are torch's on this processor: {native.state()}")
    return rows


def _cell(shape: Shape, dtype: str, rounds: int) -> list[Row]:
    seconds: dict[str, dict[str, list[float]]] = {}
    order = random.Random(0)
    pairs = _products(shape, DTYPES[dtype])
    for turn in range(rounds + 1):  # the first one warms up
        for name, forms in pairs.items():
            for form in order.sample(FORMS, len(FORMS)):
                begun = time.perf_counter()
                forms[form]()
                if turn:
                    seconds.setdefault(name, {}).setdefault(form, []).append(time.perf_counter() - begun)
    return [row_of(shape, f"{dtype}, {name}", taken) for name, taken in seconds.items()]


def _products(shape: Shape, dtype: torch.dtype) -> dict[str, Mapping[str, Call]]:
    """Calls by which each form computes the answer and both gradients."""
    rng = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(size, generator=rng).to(dtype)
        for size in (
            (shape.rows, shape.inputs),
            (shape.outputs, shape.inputs),
            (shape.rows, shape.outputs),
        )
    )
    return {
        "answer": {"ours": lambda: linear_fused.project(x, weight), "torch": lambda: F.linear(x, weight)},
        "gradient of rows": {
            "ours": lambda: linear_fused.grad_input(grad, weight),
            "torch": lambda: grad @ weight,
        },
        "gradient of weight": {
            "ours": lambda: linear_fused.grad_weight(grad, x),
            "torch": lambda: grad.mT @ x,
        },
    }


def row_of(shape: Shape, name: str, seconds: Mapping[str, Sequence[float]]) -> Row:
    """Speed as a multiple of torch's."""
    ratio = statistics.median(
        torchs / ours for ours, torchs in zip(seconds["ours"], seconds["torch"], strict=True)
    )
    speeds = [f"{form} {shape.flops / statistics.median(seconds[form]) / 1e9:.0f} GFLOP/s" for form in FORMS]
    return Row(
        f"{shape.name}, {name}",
        round(ratio, 2),
        "x torch's speed",
        "above 1",
        ratio > 1,
        f"{', '.join(speeds)}; {len(seconds['ours'])} rounds",
    )


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    return one_core.run(
        "python -m benchmarks.figures.linear",
        __doc__,
        arguments,
        lambda is_quick: measure(rounds=QUICK_ROUNDS if is_quick else ROUNDS),
        quick="a fifth of the rounds",
    )


if __name__ == "__main__":
    sys.exit(main())
