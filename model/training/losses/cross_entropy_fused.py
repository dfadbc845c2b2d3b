"""Cross-entropy of rows of logits on CPU by a compiled kernel (`model/csrc/loss_fused.cpp`), the gradient in their place.

torch's operations take five passes over the logits for it, each a temporary of their size.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model import native
from model.data.batches.batch import IGNORED
from model.layers.watched import PLAIN, is_watched

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `loss::Call` in `model/csrc/loss_fused.cpp`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "vocabulary", "threads", "ignored")),
        ("z_weight", ctypes.c_double),
        ("wants_gradient", ctypes.c_int64),
        *((name, _POINTER) for name in ("logits", "targets", "losses")),
    ]


def fits(logits_NV: Tensor, targets_N: Tensor) -> bool:
    """Whether `score_` may be used: plain CPU tensors, logits in fp32 or bf16. Not while something watches torch."""
    if any(
        type(t) not in PLAIN or t.device.type != "cpu" or not t.is_contiguous()
        for t in (logits_NV, targets_N)
    ):
        return False
    if logits_NV.dtype not in _DTYPES or targets_N.dtype is not torch.int64 or is_watched():
        return False
    return _kernel() is not None


def score_(logits_NV: Tensor, targets_N: Tensor, *, z_weight: float, wants_gradient: bool) -> Tensor:
    """Loss of each row in nats, fp32 [N]: -log softmax + z_weight * (log of the sum)^2, zero for IGNORED targets.

    With `wants_gradient` the logits are overwritten by the gradient of the losses' sum, in their format. For tensors
    that `fits` accepts. Raises IndexError where a target is no row of the vocabulary, and MemoryError; nothing has
    changed then.
    """
    losses_N = torch.empty(len(logits_NV))
    call = _Call(
        *(*logits_NV.shape, torch.get_num_threads(), IGNORED, z_weight, wants_gradient),
        *(tensor.data_ptr() for tensor in (logits_NV, targets_N, losses_N)),
    )
    code = _kernel()(ctypes.byref(call), int(logits_NV.dtype is torch.bfloat16))
    if code == 2:
        raise MemoryError(f"no memory for a row of {logits_NV.shape[1]:,} logits in each thread")
    if code:
        raise IndexError(f"a target is not in 0 .. {logits_NV.shape[1] - 1}")
    return losses_N


@cache
def _kernel() -> Any:
    """The kernel; None if there is no library, or its kernels are of another tree."""
    return getattr(native.library(), "loss_fused_score", None)
