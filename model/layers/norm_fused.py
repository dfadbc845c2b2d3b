"""Root-mean-square norms and rotations of heads on CPU by a compiled kernel, forward and backward (`model/csrc/norm_fused.cpp`).

torch's operations take some ten passes over the rows each way, each with a temporary of their size. Here a row is read
once for its norm and once for the output, and only the input is kept for the backward pass. Everything is fp32, rounded
once to the output's format.

Callers must check `fits` first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model import native
from model.layers import norm_reference
from model.layers.attention.rotary import Rotation
from model.layers.watched import PLAIN, is_watched

FORMATS = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `norm::Call` in `model/csrc/norm_fused.cpp`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "width", "heads", "positions", "threads")),
        ("eps", ctypes.c_double),
        *((name, _POINTER) for name in ("x", "weight", "cos", "sin", "y")),
        *((name, _POINTER) for name in ("grad_y", "grad_x", "grad_weight")),
    ]


def fits(x: Tensor, weight: Tensor | None = None, rotation: Rotation | None = None) -> bool:
    """Whether `normed` and `turned` support the tensors: on CPU, x in fp32 or bf16, all others in fp32.

    Not for interleaved rotations, nor while torch's operations are watched.
    """
    if x.dtype not in FORMATS or (rotation is not None and rotation.is_interleaved):
        return False
    others = (weight, *(() if rotation is None else rotation[:2]))
    exact = [t for t in others if t is not None]
    if any(type(t) not in PLAIN or t.device.type != "cpu" for t in (x, *exact)) or x.numel() == 0:
        return False
    return all(t.dtype is torch.float32 for t in exact) and not is_watched() and _has_kernels()


def normed(x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """RMS norm, x / sqrt(mean(x^2) + eps) * weight over the last dimension: [..., D] in `dtype`, one of FORMATS.

    For tensors that `fits` accepts. Second derivatives are torch's. Raises MemoryError.
    """
    apply: Callable[..., Tensor] = _Rows.apply
    return apply(x.contiguous(), weight_D, None, None, eps, dtype)


def turned(
    x: Tensor, rotation: Rotation, dtype: torch.dtype, weight_C: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """Heads [..., H, C], normed per head if there is a weight, rotated by their positions' rotation [..., C].

    In `dtype`, one of FORMATS. For tensors that `fits` accepts, with rotations of the last positions of x: [S, C] serves
    [B, S, H, C] too. Second derivatives are torch's. Raises MemoryError.
    """
    cos, sin = rotation.cos.contiguous(), rotation.sin.contiguous()
    apply: Callable[..., Tensor] = _Rows.apply
    return apply(x.contiguous(), weight_C, cos, sin, eps, dtype)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        y = torch.empty_like(x, dtype=dtype)
        _run("forward", (x, weight, cos, sin), eps, dtype, y=y)
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.eps, ctx.dtype = eps, dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *turn = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            rotation = None if turn[0] is None else Rotation(*turn)
            needed = ctx.needs_input_grad[:2]
            return *norm_reference.gradients(x, weight, rotation, ctx.eps, grad_y, needed), *(4 * [None])
        grad_x = torch.empty_like(x)
        grad_weight = None if weight is None else torch.empty_like(weight)
        arrays = {"grad_y": grad_y.contiguous(), "grad_x": grad_x, "grad_weight": grad_weight}
        _run("backward", (x, weight, *turn), ctx.eps, ctx.dtype, **arrays)
        return grad_x, grad_weight, None, None, None, None


def _run(
    direction: str,
    arguments: tuple[Tensor | None, ...],
    eps: float,
    dtype: torch.dtype,
    **arrays: Tensor | None,
) -> None:
    """Call the kernel; all tensors must be contiguous and outlive the call. `dtype` is the output's."""
    x, weight, cos, sin = arguments
    assert x is not None
    width = x.shape[-1]
    positions = 1 if cos is None else cos.numel() // width
    heads = 1 if cos is None else x.shape[-2]
    given = {"x": x, "weight": weight, "cos": cos, "sin": sin, **arrays}
    call = _Call(
        *(x.numel() // width, width, heads, positions, torch.get_num_threads(), eps),
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in given.items()},
    )
    formats = (int(format_ is torch.bfloat16) for format_ in (x.dtype, dtype))
    if getattr(native.library(), f"norm_fused_{direction}")(ctypes.byref(call), *formats):
        raise MemoryError(f"no memory for the norms of {call.rows} rows: pass fewer tokens at a time")


@cache
def _has_kernels() -> bool:
    """Whether there are compiled kernels, of this tree."""
    return hasattr(native.library(), "norm_fused_backward")
