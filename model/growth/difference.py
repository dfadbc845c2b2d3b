"""Measure the difference of two models' logits on random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import load_config, load_transformer

ROWS, LONGEST = 2, 64


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of logits, and the first model's largest absolute logit."""

    largest: float
    largest_logit: float
    n_tokens: int

    @property
    def relative(self) -> float:
        return self.largest / self.largest_logit if self.largest_logit else float(self.largest > 0)


def logit_difference(one: Path, other: Path) -> Difference:
    """Compare two model folders with one vocabulary, computed one after the other in fp32.

    Raises CheckpointError for a folder without a usable model.
    """
    config, _ = load_config(one)
    shape = (ROWS, min(LONGEST, config.max_context))
    tokens_BS = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    first_BSV, second_BSV = _logits(one, tokens_BS), _logits(other, tokens_BS)
    return Difference(
        float((second_BSV - first_BSV).abs().max()), float(first_BSV.abs().max()), tokens_BS.numel()
    )


@torch.no_grad()
def _logits(folder: Path, tokens_BS: Tensor) -> Tensor:
    logits_BSV: Tensor = load_transformer(folder).float()(tokens_BS)
    return logits_BSV
