"""Loss on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from model.data.batches.batch import Batch
from model.training.losses.objective import losses_on
from model.training.optim.ema import WeightAverage
from model.training.optim.precision import Precision, autocast
from model.transformer import Transformer


class Score(NamedTuple):
    loss: float  # nats per target
    targets: int


@torch.no_grad()
def held_out_loss(
    model: Transformer,
    batches: Sequence[Batch],
    *,
    precision: Precision = "fp32",
    average: WeightAverage | None = None,
) -> Score:
    """Mean nats per target over all batches, of the averaged weights if given.

    The model is left as it was, in training mode if it was. Raises ValueError where no target is scored.
    """
    targets = sum(batch.n_targets for batch in batches)
    if targets == 0:
        raise ValueError("the held-out batches score no position: use other evaluation data")
    was_training = model.training
    shares: list[Tensor] = []
    try:
        model.eval()
        with nullcontext() if average is None else average.swapped_in(model):
            for batch in batches:
                with autocast(precision, model.device):
                    shares.append(losses_on(model, batch.to(model.device), n_targets=targets).next_token)
    finally:
        model.train(was_training)
    return Score(float(torch.stack(shares).double().sum()), targets)
