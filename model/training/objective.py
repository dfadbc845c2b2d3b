"""What training minimises on one packed batch: next-token loss and, where the model has them, losses further ahead.

Auxiliary losses of routers are not here: MoE layers attach them to their own output. Knows nothing of optimisers.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from model.data.batch import Batch
from model.training.chunked_loss import chunked_target_loss
from model.training.loss import ahead_loss
from model.transformer import Transformer


class Losses(NamedTuple):
    """fp32 scalars in nats, summed over a batch's scored positions and divided by the caller's number of targets."""

    next_token: Tensor
    ahead: Tensor | None  # mean over multi-token prediction modules; None without them or outside of training


class Objective(Protocol):
    """`losses_on`, or another function of a model and a batch in its place, such as `model.distill.Distillation`."""

    def __call__(self, model: Transformer, batch: Batch, *, n_targets: int) -> Losses: ...


def losses_on(model: Transformer, batch: Batch, *, n_targets: int) -> Losses:
    """One forward pass over a batch on the model's device.

    Without packing nothing behind a piece is seen by it, so torch's causal kernels need no mask: twice as fast.
    """
    packing: dict[str, Tensor] = {}
    if batch.is_packed:
        packing = {"positions_BS": batch.positions_BS, "documents_BS": batch.documents_BS}
    x_BSD = model.hidden(batch.tokens_BS, **packing)
    head_VD = model.embedding if model.head is None else model.head
    next_token = chunked_target_loss(model.norm(x_BSD), head_VD, batch.targets_BS, n_targets=n_targets)
    if not model.training or not len(model.ahead):
        return Losses(next_token, None)
    logits = model.ahead_logits(x_BSD, batch.tokens_BS, **packing)
    ahead = ahead_loss(logits, batch.targets_BS, documents_BS=batch.documents_BS, n_targets=n_targets)
    return Losses(next_token, ahead)
