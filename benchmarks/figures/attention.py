"""Speed of attention over whole sequences: `python -m benchmarks.figures.attention [--json] [--quick]`, two minutes on one core.

    ours      the compiled kernels of `model/layers/attention/gqa_fused.py`
    torch     `F.scaled_dot_product_attention`, plainly causal or, where documents are packed, under a mask

Both run on one core in one process, one call each by turns in random order, forward and then backward, on the same
inputs: 16 heads of 64 numbers, two of which share keys. Ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.commands import ends_plainly
from benchmarks.figures import one_core
from benchmarks.report import MeasuringFailed, Row, milliseconds
from model import native
from model.layers.attention import gqa_fused
from model.layers.attention.gqa import attend
from model.layers.attention.masks import first_seen
from model.layers.watched import torch_instead

N_HEADS, N_KV_HEADS, D_HEAD = 16, 8, 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS, QUICK_ROUNDS = 12, 3

Form = Literal["ours", "torch"]
FORMS: tuple[Form, ...] = ("ours", "torch")


@dataclass(frozen=True)
class Shape:
    """Rows of so many tokens, each cut into documents of equal length."""

    n_rows: int
    row_tokens: int
    n_documents: int = 1

    @property
    def name(self) -> str:
        packed = f" in {self.n_documents} documents each" if self.n_documents > 1 else ""
        return f"{self.n_rows} x {self.row_tokens} tokens{packed}"

    def first_seen(self) -> Tensor | None:
        """First position that each query sees, as attention takes it, [1, S]."""
        if self.n_documents == 1:
            return None
        documents_1S = torch.arange(self.row_tokens)[None] * self.n_documents // self.row_tokens
        return first_seen(self.row_tokens, documents_BS=documents_1S, device=documents_1S.device)


SHAPES = (Shape(16, 128), Shape(4, 512), Shape(4, 512, 4), Shape(2, 2048, 8))


@dataclass(frozen=True)
class Cell:
    """Seconds of each form, (forward, backward) per round."""

    shape: Shape
    dtype: str
    seconds: dict[Form, list[tuple[float, float]]]

    def rows(self) -> list[Row]:
        return [self._row("forward", 0), self._row("backward", 1)]

    def _row(self, direction: str, at: int) -> Row:
        taken = {form: [pair[at] for pair in pairs] for form, pairs in self.seconds.items()}
        ratio = statistics.median(
            ours / torchs for ours, torchs in zip(taken["ours"], taken["torch"], strict=True)
        )
        return Row(
            f"{self.shape.name}, {self.dtype}, {direction}",
            round(ratio, 2),
            "x torch's time",
            "below 1",
            ratio < 1,
            f"{milliseconds(taken['ours'])}; torch {milliseconds(taken['torch'])}; {len(taken['ours'])} rounds",
        )


def measure(*, rounds: int, shapes: Sequence[Shape] = SHAPES) -> list[Row]:
    """All rows of the formats that have kernels here. Raises MeasuringFailed where none has."""
    rows = [
        row
        for name, dtype in DTYPES.items()
        if gqa_fused.fits(torch.empty(1, 1, 1, 1, dtype=dtype))
        for shape in shapes
        for row in _cell(shape, name, rounds).rows()
    ]
    if not rows:
        raise MeasuringFailed(f"no compiled attention here: {native.state()}")
    return rows


def _cell(shape: Shape, dtype: str, rounds: int) -> Cell:
    rng, order = torch.Generator().manual_seed(0), random.Random(0)
    widths = (N_HEADS, N_KV_HEADS, N_KV_HEADS, N_HEADS)
    q, k, v, grad = (
        torch.randn(shape.n_rows, shape.row_tokens, heads, D_HEAD, generator=rng).to(DTYPES[dtype])
        for heads in widths
    )
    first = shape.first_seen()
    seconds: dict[Form, list[tuple[float, float]]] = {form: [] for form in FORMS}
    for turn in range(rounds + 1):  # the first one warms up
        for form in order.sample(FORMS, len(FORMS)):
            taken = _seconds(form, (q, k, v), grad, first)
            if turn:
                seconds[form].append(taken)
    return Cell(shape, dtype, seconds)


def _seconds(
    form: Form, heads: tuple[Tensor, Tensor, Tensor], grad: Tensor, first: Tensor | None
) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass."""
    q, k, v = (part.detach().requires_grad_() for part in heads)
    with torch_instead() if form == "torch" else nullcontext():
        begun = time.perf_counter()
        y = attend(q, k, v, first)
        between = time.perf_counter()
        y.backward(grad)  # type: ignore[no-untyped-call]  # torch ships no types for it
        return between - begun, time.perf_counter() - between


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    return one_core.run(
        "python -m benchmarks.figures.attention",
        __doc__,
        arguments,
        lambda is_quick: measure(rounds=QUICK_ROUNDS if is_quick else ROUNDS),
        quick="a quarter of the rounds",
    )


if __name__ == "__main__":
    sys.exit(main())
