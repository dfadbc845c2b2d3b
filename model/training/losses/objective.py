"""Training objective on one packed batch: next-token loss and, if the model has MTP modules, theirs.

Auxiliary losses of routers are not here: MoE layers attach them to their own output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from model.data.batches.batch import Batch
from model.training.losses.chunked import chunked_target_loss, mtp_loss
from model.transformer import Transformer


class Losses(NamedTuple):
    """fp32 scalars in nats, summed over a batch's scored positions and divided by the caller's number of targets."""

    next_token: Tensor
    mtp: Tensor | None  # mean over the MTP modules; None without them or outside of training


class Objective(Protocol):
    """Interface of a training objective: `losses_on`, or another one such as `model.distill.Distillation`."""

    def __call__(self, model: Transformer, batch: Batch, *, n_targets: int) -> Losses: ...


def losses_on(model: Transformer, batch: Batch, *, n_targets: int) -> Losses:
    """One forward pass over a batch on the model's device."""
    packing = packing_of(batch, model, is_packed=batch.is_packed)
    x_BSD = model.hidden(batch.tokens_BS, **packing)
    head_VD = model.head_weight
    next_token = chunked_target_loss(model.norm(x_BSD), head_VD, batch.targets_BS, n_targets=n_targets)
    return Losses(next_token, mtp_loss_on(model, x_BSD, batch, packing, n_targets=n_targets))


def mtp_loss_on(
    model: Transformer, x_BSD: Tensor, batch: Batch, packing: Mapping[str, Tensor], *, n_targets: int
) -> Tensor | None:
    """Compute `Losses.mtp`, the MTP loss, from what `model.hidden` returned."""
    if not model.training or not len(model.ahead):
        return None
    hidden = model.mtp_hidden(x_BSD, batch.tokens_BS, **packing)
    return mtp_loss(
        hidden, model.head_weight, batch.targets_BS, documents_BS=batch.documents_BS, n_targets=n_targets
    )


def packing_of(batch: Batch, model: Transformer, *, is_packed: bool) -> dict[str, Tensor]:
    """Arguments of the model that describe a batch's packing; none where each row is one document.

    A document does not attend to the padding after it, so causal kernels need no mask. But rotations that depend on
    lengths must not count the padding.
    """
    if not is_packed and not model.rotary.is_dynamic:
        return {}
    return {"positions_BS": batch.positions_BS, "documents_BS": batch.documents_BS}
