"""Linear maps of many rows on CPU by compiled kernels, forward and backward (`model/csrc/linear_fused.cpp`).

torch's libraries multiply fp32 on AMD processors without AVX-512, and on some shapes spend a tenth of the time on
packing. Sums are fp32 in both formats, in an order that depends on neither other rows nor threads.

Callers must check `fits` first, as `model/layers/linear.py` does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model import native
from model.kernel_ways import LEAST_ROWS
from model.layers.formats import product_dtype
from model.layers.watched import PLAIN, is_watched

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `linear::Call` in `model/csrc/linear_rows.h`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "outputs", "inputs", "threads")),
        *((name, _POINTER) for name in ("x", "weight", "y", "grad_y", "grad_x", "grad_weight")),
        *((name, ctypes.c_int64) for name in ("is_wide", "adds")),
    ]


def fits(x: Tensor, weight_NK: Tensor) -> bool:
    """Whether this `linear` supports the tensors: many rows, on CPU, of one format that this processor multiplies fast.

    Under autocast its format counts. Not while torch's operations are traced or its functions replaced.
    """
    if any(type(t) not in PLAIN or t.device.type != "cpu" or not t.numel() for t in (x, weight_NK)):
        return False
    dtype = product_dtype(x)
    if dtype not in _DTYPES or product_dtype(weight_NK) is not dtype:
        return False
    if x.numel() < least_rows(dtype) * x.shape[-1] or not weight_NK.is_contiguous():
        return False
    if is_watched() or torch._C._len_torch_function_stack():
        return False
    return is_fast(dtype)


def is_fast(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies the format faster by these kernels than by torch's."""
    return bool(_fast_formats() & {torch.float32: 1, torch.bfloat16: 2}.get(dtype, 0))


@cache
def least_rows(dtype: torch.dtype) -> int:
    """With fewer rows torch is as fast: 512, but 8 in bf16 where torch has no fast products of it (`model/kernel_ways.py`)."""
    kernel = getattr(native.library(), "linear_fused_least_rows", None)
    return LEAST_ROWS if kernel is None else int(kernel(int(dtype is torch.bfloat16)))


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """x weight^T: [..., K] -> [..., N] in their format, or autocast's if it is on. For tensors that `fits` accepts.

    Second derivatives are torch's. Raises MemoryError.
    """
    apply: Callable[..., Tensor] = _Linear.apply
    dtype = product_dtype(x)
    return apply(x.to(dtype).contiguous(), weight_NK.to(dtype))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_NK)
        y: Tensor = OPERATION(x, weight_NK)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight_NK = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for second derivatives
            grad_MN, x_MK = grad_y.flatten(0, -2), x.flatten(0, -2)
            return grad_y @ weight_NK if needs_x else None, grad_MN.mT @ x_MK if needs_weight else None
        grad_y = grad_y.contiguous()
        return (
            grad_input(grad_y, weight_NK) if needs_x else None,
            grad_weight(grad_y, x) if needs_weight else None,
        )


def project(x: Tensor, weight_NK: Tensor, out: Tensor | None = None) -> Tensor:
    """As `linear`, of contiguous tensors, without a gradient; into `out` if given."""
    y = x.new_empty(*x.shape[:-1], len(weight_NK)) if out is None else out
    _run("forward", x, weight_NK.shape, x=x, weight=weight_NK, y=y)
    return y


@torch.library.custom_op("gainshare::linear", mutates_args=())
def _forward(x: Tensor, weight_NK: Tensor) -> Tensor:
    return project(x, weight_NK)


#: Registered as one torch operation, so that selective checkpointing keeps its output.
OPERATION = torch.ops.gainshare.linear.default


def grad_input(grad_y: Tensor, weight_NK: Tensor) -> Tensor:
    """grad_y weight: [..., N] -> [..., K]."""
    grad_x = grad_y.new_empty(*grad_y.shape[:-1], weight_NK.shape[1])
    _run("grad_input", grad_y, weight_NK.shape, weight=weight_NK, grad_y=grad_y, grad_x=grad_x)
    return grad_x


def grad_weight(grad_y: Tensor, x: Tensor) -> Tensor:
    """grad_y^T x over all rows: [N, K]."""
    grad_NK = x.new_empty(grad_y.shape[-1], x.shape[-1])
    _run("grad_weight", x, grad_NK.shape, x=x, grad_y=grad_y, grad_weight=grad_NK)
    return grad_NK


def add_grad_weight(grad_y: Tensor, x: Tensor, to_NK: Tensor | None) -> Tensor:
    """`grad_weight` in fp32, unrounded; added to `to_NK` in place unless that is None."""
    grad_NK = x.new_empty(grad_y.shape[-1], x.shape[-1], dtype=torch.float32) if to_NK is None else to_NK
    adds = int(to_NK is not None)
    _run("grad_weight", x, grad_NK.shape, x=x, grad_y=grad_y, grad_weight=grad_NK, is_wide=1, adds=adds)
    return grad_NK


def _run(
    name: str, rows: Tensor, shape: torch.Size, *, is_wide: int = 0, adds: int = 0, **arrays: Tensor
) -> None:
    """Call the kernel; all tensors must be contiguous and outlive the call. `shape` is the weight's."""
    n_rows = rows.numel() // rows.shape[-1]
    call = _Call(
        *(n_rows, *shape, torch.get_num_threads()),
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
        is_wide=is_wide,
        adds=adds,
    )
    kernel = getattr(native.library(), f"linear_fused_{name}")
    if kernel(ctypes.byref(call), int(rows.dtype is torch.bfloat16)):
        raise MemoryError(
            f"no memory for the packed panels of a product of {n_rows:,} rows with a weight {tuple(shape)}"
        )


@cache
def _fast_formats() -> int:
    """Fast formats: bit 0 for fp32, bit 1 for bf16; 0 without kernels, or with those of another tree."""
    kernel = getattr(native.library(), "linear_fused_is_fast", None)
    return 0 if kernel is None else int(kernel())
