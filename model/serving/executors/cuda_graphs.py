"""Decode steps as CUDA graphs: a step of few rows is bound by launching kernels, a captured one launches once.

A graph has fixed shapes, so a step is padded to the next captured size: rows, and blocks of the longest sequence.
Padded rows write to a spare block, and nothing of them reaches other rows. Steps that are no plain
decoding (prompts, draft tokens, more rows or longer sequences than the largest size) are computed by `TorchExecutor`.
Capturing needs a CUDA device; the computation that is captured, and everything around it, runs anywhere.

No CUDA device has run it yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.layers.moe.layer import Experts, moe_layers
from model.serving.executors.base import Part, on_host
from model.serving.executors.cuda_graphs_step import DecodeInputs, DecodeStep, count_experts
from model.serving.executors.plain_torch import BLOCK_TOKENS, TorchExecutor
from model.transformer import Transformer

Compute = Callable[[], Tensor]
Capture = Callable[[Compute], Compute]  # repeats the same work on what is in the same tensors

GROUPED_CAPABILITIES = (9, 10)  # Hopper and Blackwell: `_scaled_mm_allowed_device` in torch's GroupedBlas.cpp
ALIGNED_BYTES = 16  # of rows, as the grouped product's kernel asks
WARM_UPS = 3  # lazy initialisations (cuBLAS workspaces, autotuning) must not happen while capturing


def next_size(n: int, sizes: Sequence[int]) -> int | None:
    """The smallest of the ascending `sizes` that holds `n`; None if none does."""
    return next((size for size in sizes if n <= size), None)


def _cut(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """The sizes below `most`, then `most` itself, but none above the last of `sizes`."""
    return (*(size for size in sizes[:-1] if size < most), min(most, sizes[-1]))


@dataclass(frozen=True)
class CaptureSizes:
    """Sizes that graphs are made for: rows of a step, and tokens of its longest sequence.

    A step copies the keys and values of rows x tokens positions: at most `most_slots`, where that is given.
    """

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    tokens: tuple[int, ...] = (256, 1024, 4096, 16_384)
    most_slots: int | None = None

    def __post_init__(self) -> None:
        for sizes in (self.rows, self.tokens):
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
                raise ValueError(f"capture sizes must be ascending and above 0, not {sizes}")

    @classmethod
    def within(cls, most_rows: int, most_tokens: int, most_slots: int) -> CaptureSizes:
        """The default sizes up to these numbers."""
        usual = cls()
        return cls(_cut(usual.rows, most_rows), _cut(usual.tokens, most_tokens), most_slots)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """All pairs of rows and tokens, the largest first."""
        every = [(rows, tokens) for tokens in self.tokens[::-1] for rows in self.rows[::-1]]
        return [size for size in every if self._is_small(*size)]

    def size(self, parts: Sequence[Part]) -> tuple[int, int] | None:
        """The size that holds these parts; None if they are not a plain decode step, or too many or too long."""
        if not parts or any(len(part.tokens) != 1 or part.n_logits != 1 for part in parts):
            return None
        rows = next_size(len(parts), self.rows)
        tokens = next_size(max(part.past for part in parts) + 1, self.tokens)
        return None if rows is None or tokens is None or not self._is_small(rows, tokens) else (rows, tokens)

    def _is_small(self, rows: int, tokens: int) -> bool:
        return self.most_slots is None or rows * tokens <= self.most_slots


def refusal(model: Transformer) -> str | None:
    """The reason why this model's decode steps cannot be captured; None if they can."""
    if model.config.latent is not None:
        return "MLA has no captured form yet"
    moe = model.config.moe
    if moe is None:
        return None
    if any(type(layer.experts) is not Experts for layer in moe_layers(model).values()):
        return "experts on several devices or ranks wait for the host within a step"
    if model.device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(model.device)
    return product_refusal(model.dtype, (major, minor), (moe.d_model, moe.d_expert))


def product_refusal(dtype: torch.dtype, capability: tuple[int, int], widths: Sequence[int]) -> str | None:
    """The reason why torch's grouped product, the one for experts that can be captured, would wait for the host.

    Unless its own kernel runs it asks the host for each expert's rows. None if that kernel runs.
    """
    product = "torch's grouped product, the one for experts that can be captured,"
    if dtype is not torch.bfloat16:
        return f"{product} needs bf16, not {dtype}: serve the model with --weights bf16"
    if capability[0] not in GROUPED_CAPABILITIES:
        major, minor = capability
        return f"{product} needs compute capability 9 or 10, and this device has {major}.{minor}"
    if any(width * dtype.itemsize % ALIGNED_BYTES for width in widths):
        return f"{product} needs widths that are multiples of {ALIGNED_BYTES // dtype.itemsize}"
    return None


class GraphedExecutor(TorchExecutor):
    """A `TorchExecutor` with captured decode steps. `capture` is CUDA's unless another is given.

    `expert_load_LE`: of each mixture, from the first on, how many (token, choice) pairs each expert got in all
    `n_steps` steps, int64 on the device. Raises ValueError for a model that cannot be captured, and RuntimeError where
    there is no CUDA device.
    """

    def __init__(
        self,
        transformer: Transformer,
        n_blocks: int,
        *,
        block_tokens: int = BLOCK_TOKENS,
        capture_sizes: CaptureSizes | None = None,
        capture: Capture | None = None,
    ) -> None:
        if reason := refusal(transformer):
            raise ValueError(f"{transformer.config.name} cannot be served by CUDA graphs: {reason}")
        if capture is None and transformer.device.type != "cuda":
            raise RuntimeError(
                "CUDA graphs need the model on a CUDA device: move it there, or use TorchExecutor"
            )
        super().__init__(transformer, n_blocks + 1, block_tokens=block_tokens)
        self.n_blocks = n_blocks  # the last block, which the engine does not know, is for padded rows
        self._capture_sizes = capture_sizes or CaptureSizes()
        self._capture = capture or cuda_capture(transformer.device)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self.expert_load_LE = count_experts(
            transformer
        )  # before the first capture, so that replays count too
        self.n_steps = 0

    @property
    def n_graphs(self) -> int:
        return len(self._graphs)

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """As `TorchExecutor.step`. The first step of each size captures its graph."""
        size = self._capture_sizes.size(parts)
        if size is None:
            logits = super().step(parts)
        else:
            for part in parts:
                self._check(part)
            logits = self._graph(size).step(parts)
        self.n_steps += 1
        return logits

    def prepare(self, sizes: Iterable[tuple[int, int]] | None = None) -> None:
        """Capture these sizes (rows, tokens), by default all, so that no step has to wait for a capture."""
        for size in (
            self._capture_sizes.sizes if sizes is None else sizes
        ):  # smaller graphs fit into a larger one's memory
            self._graph(size)

    def _graph(self, size: tuple[int, int]) -> _Graph:
        if size not in self._graphs:
            rows, tokens = size
            inputs = DecodeInputs(rows, -(-tokens // self.block_tokens), self.n_blocks, self._keys.device)
            step = DecodeStep(self._transformer, self._keys, self._values, self.block_tokens, inputs)
            self._graphs[size] = _Graph(inputs, self._capture(step))
        return self._graphs[size]


class _Graph:
    """One captured size."""

    def __init__(self, inputs: DecodeInputs, replay: Compute) -> None:
        self._inputs, self._replay = inputs, replay

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        self._inputs.fill(parts)
        return on_host(self._replay()[: len(parts)])  # a copy: the next replay overwrites it


def cuda_capture(device: torch.device) -> Capture:
    """Captures on a CUDA device; all graphs share one memory pool, since one runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> Compute:
        side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch ships no types for it
        side_stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream(device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile: one that serves another model, one that reads counters
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits_BV = compute()

        def replay() -> Tensor:
            graph.replay()
            return logits_BV

        return replay

    return capture
