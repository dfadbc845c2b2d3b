"""Speed of the routed experts: `python -m benchmarks.figures.experts [--json] [--quick]`, under 4 minutes on one core.

Where torch has no fast products of bf16 (a processor without AVX512_BF16) the whole takes more than a quarter of an hour:
use `--quick`, which leaves the longest calls out.

    fused     the compiled kernels of `model/layers/moe/experts_fused.py`
    sorted    torch: rows sorted by expert, one matmul per expert
    grouped   torch: rows sorted by expert, `F.grouped_mm`
    floor     a dense feed-forward as wide as the experts that a token uses: the same products without any choice

All run on one core in one process, one call each by turns in random order, each call with fresh tokens and choices,
so that no form finds the weights that another one just read. Two shared experts are computed as one dense
feed-forward in the first three and are part of the floor's width; routers are left out everywhere. Backward includes
forward and makes all gradients again. Ratios are medians of the ratios within a round, which drift cannot tilt.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.commands import ends_plainly
from benchmarks.figures import one_core
from benchmarks.report import MeasuringFailed, Row, milliseconds
from model import native
from model.layers.ffn import SwiGLU
from model.layers.moe import experts, experts_fused

D_MODEL, D_EXPERT, N_EXPERTS, TOP_K, N_SHARED = 512, 512, 32, 4, 2
TOKENS = (1, 16, 512, 4096)
FEW_TOKENS = 16  # up to here the weights' way from memory decides
READ_SHARE = 0.75  # of its speed, as of decoding in 16 bits
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CELL_SECONDS, QUICK_SECONDS = 10.0, 1.5
MIN_ROUNDS, MAX_ROUNDS = 5, 200
STREAM_BYTES = 256 << 20  # far beyond any cache


@dataclass(frozen=True)
class Tokens:
    """One call's arguments; x and grad_y [T, D], weights and chosen [T, K]."""

    x: Tensor
    weights: Tensor
    chosen: Tensor
    grad_y: Tensor

    @classmethod
    def drawn(cls, n: int, dtype: torch.dtype, rng: torch.Generator) -> Tokens:
        weights, chosen = torch.rand(n, N_EXPERTS, generator=rng).topk(TOP_K)
        x, grad_y = (torch.randn(n, D_MODEL, generator=rng).to(dtype) for _ in range(2))
        return cls(x, weights / weights.sum(-1, keepdim=True), chosen, grad_y)


class Weights:
    """One set of parameters in one format, and the forms that use them."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        self.stacks = [
            (torch.randn(N_EXPERTS, rows, columns) * columns**-0.5).to(dtype).requires_grad_()
            for rows, columns in ((D_EXPERT, D_MODEL), (D_EXPERT, D_MODEL), (D_MODEL, D_EXPERT))
        ]
        self.shared = SwiGLU(D_MODEL, N_SHARED * D_EXPERT).to(dtype)
        self.dense = SwiGLU(D_MODEL, (TOP_K + N_SHARED) * D_EXPERT).to(dtype)

    def forms(self) -> list[str]:
        """The floor first, then what this machine has of the others."""
        probe = Tokens.drawn(1, self.dtype, torch.Generator())
        has_kernels = experts_fused.fits(probe.x, probe.weights, probe.chosen, *self.stacks)
        has_grouped = hasattr(F, "grouped_mm")
        return ["floor", "sorted", *["grouped"] * has_grouped, *["fused"] * has_kernels]

    def compute(self, form: str, tokens: Tokens) -> Tensor:
        if form == "floor":
            dense_TD: Tensor = self.dense(tokens.x)
            return dense_TD
        routed_TD = experts.apply_experts(tokens.x, tokens.weights, tokens.chosen, *self.stacks)
        shared_TD: Tensor = self.shared(tokens.x)
        return routed_TD + shared_TD

    def clear_gradients(self) -> None:
        for parameter in (*self.stacks, *self.shared.parameters(), *self.dense.parameters()):
            parameter.grad = None


@contextmanager
def _only(form: str) -> Iterator[None]:
    """`apply_experts` computes by that form, whatever it would choose itself."""
    fits = experts_fused.fits if form == "fused" else lambda *_: False
    with (
        patch.object(experts_fused, "fits", fits),
        patch.object(experts, "_grouped_is_better", lambda *_: form == "grouped"),
    ):
        yield


@dataclass(frozen=True)
class Cell:
    """Seconds of each form, one entry per round; `chosen` counts the different experts of each round's fused call."""

    tokens: int
    dtype: str
    backward: bool
    seconds: dict[str, list[float]]
    chosen: list[int]

    @property
    def name(self) -> str:
        return f"{'forward and backward' if self.backward else 'forward'}, {self.dtype}, T = {self.tokens}"

    def ratio(self, form: str, to: str) -> float:
        pairs = zip(self.seconds[form], self.seconds[to], strict=True)
        return statistics.median(one / other for one, other in pairs)


def measure(*, seconds: float, tokens: Sequence[int] = TOKENS) -> list[Row]:
    """All rows. Raises MeasuringFailed where there are no compiled kernels to measure."""
    if not native.available():
        raise MeasuringFailed(native.state())
    bytes_per_s = _read_bandwidth()
    rows = [
        Row(
            "memory read, one core",
            round(bytes_per_s / 1e9, 1),
            "GB/s",
            None,
            None,
            f"sum of {STREAM_BYTES >> 20} MiB, best of 5",
        )
    ]
    for name, dtype in DTYPES.items():
        weights = Weights(dtype)
        for backward in (False, True):
            for n in tokens:
                cell = _cell(weights, n, name, backward=backward, seconds=seconds)
                rows += _rows(cell)
                if not backward and n <= FEW_TOKENS and "fused" in cell.seconds:
                    rows.append(_bandwidth_row(cell, dtype.itemsize, bytes_per_s))
    return rows


def _cell(weights: Weights, n: int, dtype: str, *, backward: bool, seconds: float) -> Cell:
    forms, rng, order = weights.forms(), torch.Generator().manual_seed(n), random.Random(n)
    taken: dict[str, list[float]] = {form: [] for form in forms}
    chosen: list[int] = []
    for form in forms:
        _seconds(form, Tokens.drawn(n, weights.dtype, rng), weights, backward=backward)
    begun = time.perf_counter()
    while len(chosen) < MAX_ROUNDS and (len(chosen) < MIN_ROUNDS or time.perf_counter() - begun < seconds):
        drawn = {form: Tokens.drawn(n, weights.dtype, rng) for form in forms}
        for form in order.sample(forms, len(forms)):
            taken[form].append(_seconds(form, drawn[form], weights, backward=backward))
        chosen.append(len(set(drawn.get("fused", drawn["sorted"]).chosen.flatten().tolist())))
    return Cell(n, dtype, backward, taken, chosen)


def _seconds(form: str, tokens: Tokens, weights: Weights, *, backward: bool) -> float:
    """Seconds of one call; the memory of the last one's gradients is freed before."""
    weights.clear_gradients()
    for leaf in (tokens.x, tokens.weights):
        leaf.requires_grad_(backward)
    with _only(form), torch.inference_mode(not backward):
        begun = time.perf_counter()
        y_TD = weights.compute(form, tokens)
        if backward:
            y_TD.backward(tokens.grad_y)  # type: ignore[no-untyped-call]  # torch ships no types for it
        return time.perf_counter() - begun


def _rows(cell: Cell) -> list[Row]:
    rows = []
    for form in [name for name in ("sorted", "grouped", "fused") if name in cell.seconds]:
        others = [name for name in ("sorted", "grouped") if name in cell.seconds]
        is_fused = form == "fused"
        ratio = cell.ratio(form, "floor")
        rows.append(
            Row(
                f"{cell.name}: {form}",
                round(ratio, 2),
                "x the floor's time",
                "less than torch's forms" if is_fused else None,
                all(cell.ratio(form, other) < 1 for other in others) if is_fused else None,
                f"{milliseconds(cell.seconds[form])}; floor {milliseconds(cell.seconds['floor'])}; {len(cell.chosen)} rounds",
            )
        )
    return rows


def _bandwidth_row(cell: Cell, itemsize: int, bytes_per_s: float) -> Row:
    """Share of the memory's bandwidth at which the fused form reads the weights of the chosen and shared experts."""
    expert_bytes = 3 * D_MODEL * D_EXPERT * itemsize
    speeds = [
        (n + N_SHARED) * expert_bytes / seconds
        for n, seconds in zip(cell.chosen, cell.seconds["fused"], strict=True)
    ]
    share = statistics.median(speeds) / bytes_per_s
    how = f"median {statistics.median(cell.chosen):.0f} of {N_EXPERTS} experts chosen by {cell.tokens} tokens, and the shared"
    return Row(
        f"{cell.name}: fused, weights read",
        round(100 * share),
        "% of the memory's speed",
        f"at least {READ_SHARE:.0%}",
        share >= READ_SHARE,
        how,
    )


def _read_bandwidth() -> float:
    stream = torch.ones(STREAM_BYTES // 4)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        stream.sum()
        best = min(best, time.perf_counter() - begun)
    return STREAM_BYTES / best


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    return one_core.run(
        "python -m benchmarks.figures.experts",
        __doc__,
        arguments,
        lambda is_quick: measure(
            seconds=QUICK_SECONDS if is_quick else CELL_SECONDS,
            tokens=tuple(n for n in TOKENS if n <= 512) if is_quick else TOKENS,
        ),
        quick="a sixth of the time, up to 512 tokens",
        keeps_memory=False,
    )


if __name__ == "__main__":
    sys.exit(main())
