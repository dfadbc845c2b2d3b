"""One training batch as four equally shaped tensors of ids.

Shape suffixes: B sequences, S positions (as in model/layers/__init__.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

IGNORED = -100  # the target of a position that is not scored: torch's cross_entropy leaves it out
PADDING = -1  # the document of a position that holds no token


@dataclass(frozen=True)
class Batch:
    """Sequences of packed documents: int64 [B, S] each, on one device.

    `documents_BS` numbers the pieces of documents within a sequence from 0, in order, and is `PADDING` after the last;
    a token must attend only to its own number. `positions_BS` counts from 0 within each piece. `targets_BS` is the
    token that follows in the same document, also where it is no longer in this sequence, and `IGNORED` where it is not
    scored: on padding, and outside the answers of instruction data. The loss is
    `cross_entropy(logits_BSV.flatten(0, 1), targets_BS.flatten())`, without a shift.

    Raises ValueError for tensors that do not belong together.
    """

    tokens_BS: Tensor
    positions_BS: Tensor
    documents_BS: Tensor
    targets_BS: Tensor

    def __post_init__(self) -> None:
        for field in fields(self):
            tensor: Tensor = getattr(self, field.name)
            if tensor.dtype is not torch.int64 or tensor.ndim != 2:
                raise ValueError(
                    f"Batch.{field.name} must be int64 [B, S], not {tensor.dtype} {list(tensor.shape)}"
                )
            if tensor.shape != self.tokens_BS.shape or tensor.device != self.tokens_BS.device:
                raise ValueError(f"Batch.{field.name} must have the shape and device of tokens_BS")

    @property
    def n_cells(self) -> int:
        """Number of positions, padding included, that a forward pass computes."""
        return self.tokens_BS.numel()

    @property
    def n_tokens(self) -> int:
        """Number of positions with a token."""
        return int((self.documents_BS != PADDING).sum())

    @property
    def n_targets(self) -> int:
        """Number of scored positions, which a mean loss divides by."""
        return int((self.targets_BS != IGNORED).sum())

    @property
    def is_packed(self) -> bool:
        """Whether a sequence has several pieces and so needs more than the causal mask."""
        return bool((self.documents_BS > 0).any())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on `device`; copies overlap with compute where `pin` was called before."""
        return Batch(
            *(getattr(self, field.name).to(device, non_blocking=non_blocking) for field in fields(self))
        )

    def pin(self) -> Batch:
        """The same batch in page-locked memory. Needs an accelerator: torch raises RuntimeError without one."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def rows(self, start: int, stop: int) -> Batch:
        """Sequences start..stop - 1 as views: micro-batches of gradient accumulation."""
        return Batch(*(getattr(self, field.name)[start:stop] for field in fields(self)))
