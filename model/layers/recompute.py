"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174).

Non-reentrant throughout, so that hooks, shared weights and unused gradients work as in plain training; values and
gradients are those of plain training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from model.config import ConfigError
from model.layers import linear_fused
from model.layers.attention import gqa_fused
from model.layers.watched import Unwatching

# Kept with none: everything; full: a block's input alone; selective: the inputs of a block's halves, and the outputs of
# the products before attention's fused kernel and of the kernel, so that norms, rotations and the feed-forward, whose
# activations are the widest, are computed again (Korthikanti et al. 2022, arXiv:2205.05198).
Checkpointing = Literal["none", "full", "selective"]

_ATEN = torch.ops.aten
_PRODUCTS = {linear_fused.OPERATION, _ATEN.mm.default, _ATEN.addmm.default}
_KERNELS = {
    gqa_fused.OPERATION,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
}


def checked(value: str) -> Checkpointing:
    """Check the name of a mode. Raises ConfigError."""
    if value not in get_args(Checkpointing):
        raise ConfigError(f"checkpointing must be one of {', '.join(get_args(Checkpointing))}, not {value!r}")
    return value  # type: ignore[return-value]  # just checked


def recomputed(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """`compute(*args)`, keeping only its inputs. It must not draw random numbers."""
    y: Tensor = checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False)
    return y


def recomputed_but_products(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """`compute(*args)`, an attention, keeping its inputs and the outputs of its products and its kernel."""
    y: Tensor = checkpoint(
        compute,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=_keeping_products,
    )
    return y


def _keeping_products() -> tuple[Unwatching, Unwatching]:
    """The contexts of the forward pass and of the recomputation."""
    modes = create_selective_checkpoint_contexts(_KeepProducts())  # type: ignore[no-untyped-call]
    return Unwatching(modes[0]), Unwatching(modes[1])


class _KeepProducts:
    """Policy that keeps products up to the attention kernel: no gradient needs the output projection's result."""

    def __init__(self) -> None:
        self.has_attended = {False: False, True: False}  # in the forward pass, and when computing again

    def __call__(
        self, context: SelectiveCheckpointContext, operation: Any, *_args: Any, **_kwargs: Any
    ) -> CheckpointPolicy:
        has_attended = self.has_attended[context.is_recompute]
        if operation in _KERNELS:
            self.has_attended[context.is_recompute] = True
        if operation in _KERNELS or (operation in _PRODUCTS and not has_attended):
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE
