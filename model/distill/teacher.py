"""Teachers: the next-token distribution at each scored position of a batch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.data.batches.batch import IGNORED, Batch
from model.distill.divergence import TopK
from model.distill.hidden import States, hidden_states
from model.transformer import Transformer


class Teacher(Protocol):
    """Interface of a teacher. Positions are those of `scored(batch)`, row by row."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def tokenizer(self) -> str:
        """The result of `identity.tokenizer_sha256`."""

    @property
    def temperature(self) -> float | None:
        """The temperature that its outputs are limited to; None for any."""

    def distributions(self, batch: Batch) -> Tensor | TopK:
        """Logits [N, V] or their top tokens, N = batch.n_targets."""


class Observation(NamedTuple):
    logits_NV: Tensor
    states: States


class LiveTeacher:
    """A model that runs while the student trains. It is put into evaluation mode and its gradients are switched off.

    `tokenizer` is the result of `identity.tokenizer_sha256`.
    """

    temperature: float | None = None

    def __init__(self, model: Transformer, *, tokenizer: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def distributions(self, batch: Batch) -> Tensor:
        return self.observe(batch, set()).logits_NV

    @torch.no_grad()
    def observe(self, batch: Batch, layers: set[int]) -> Observation:
        """Logits [N, V] at the scored positions, and the hidden states of the given layers at all."""
        moved = batch.to(self.model.device)
        with hidden_states(self.model, layers) as states:
            x_BSD = self.model.hidden(
                moved.tokens_BS, positions_BS=moved.positions_BS, documents_BS=moved.documents_BS
            )
        logits_NV = self.model.logits(x_BSD[scored(moved)])
        device = batch.tokens_BS.device
        return Observation(logits_NV.to(device), {layer: x.to(device) for layer, x in states.items()})


def scored(batch: Batch) -> Tensor:
    """Mask of the scored positions, bool [B, S]."""
    return batch.targets_BS != IGNORED
