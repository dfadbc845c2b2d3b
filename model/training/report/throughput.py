"""Throughput of a step: tokens per second, and its share of the device's peak (MFU).

Counts tokens and attention's (query, key) pairs, not padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.data.batches.batch import PADDING, Batch
from model.training.report.flops import training_cost


@dataclass(frozen=True)
class Speed:
    tokens_per_s: float
    mfu: float  # model FLOP/s over the peak
    padding_share: float  # of the positions that were computed


class Speedometer:
    """Computes the speed of one model's steps on a device whose matrix products reach `peak_flops` a second."""

    def __init__(self, config: ModelConfig, peak_flops: float) -> None:
        self._cost, self._peak_flops = training_cost(config), peak_flops

    def of(self, batch: Batch, seconds: float) -> Speed:
        """Speed of an update on `batch` that took `seconds`."""
        tokens = batch.n_tokens
        flops = self._cost.flops(tokens, {window: _pairs(batch, window) for window in self._cost.layers})
        return Speed(
            tokens_per_s=tokens / seconds,
            mfu=flops / seconds / self._peak_flops,
            padding_share=1 - tokens / batch.n_cells,
        )


def _pairs(batch: Batch, window: int | None) -> int:
    """(query, key) pairs within documents: a token at position p sees p others and itself, at most `window`."""
    seen_N = batch.positions_BS[batch.documents_BS != PADDING] + 1
    return int((seen_N if window is None else seen_N.clamp(max=window)).sum())
