"""Sum of the routed experts on CPU by compiled kernels, forward and backward (`model/csrc/experts/fused.cpp`).

For few tokens each chosen expert's weights are read once in place; for many they are packed into panels. Gate, up,
activation, weighting and the sum over choices are one pass each way: no sorted copies of the tokens, and gradients of
the stacked weights are written in place, each expert's once. The backward pass needs the activation's inputs, two
numbers per pair and hidden column. Sums are fp32 in both formats.

Callers must check `fits` first, as `model/layers/moe/experts.py` does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model import native
from model.layers.moe import experts_reference
from model.layers.watched import PLAIN, is_watched

#: Up to so many tokens each one's output does not depend on the others.
FEW_TOKENS = 256
#: In larger calls weights of experts with at most so many rows are read in place, because packing them costs more.
FEW_ROWS = 32

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `experts::Call` in `model/csrc/experts/routing.h`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "choices", "d", "f", "experts", "threads", "few")),
        *((name, _POINTER) for name in ("x", "weights", "chosen", "gate", "up", "down")),
        *((name, _POINTER) for name in ("gate_up", "y", "grad_y", "grad_x", "grad_weights")),
        *((name, _POINTER) for name in ("grad_gate", "grad_up", "grad_down")),
    ]


def fits(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, *stacks: Tensor) -> bool:
    """Whether this `apply_experts` supports the tensors: on CPU, of one format that this processor multiplies fast.

    Not while torch's operations are watched (tracing, compiling, counting, transforming), nor if autocast would choose
    another format.
    """
    dtype = x_TD.dtype
    if dtype not in _DTYPES or x_TD.device.type != "cpu" or x_TD.numel() == 0 or experts_TK.numel() == 0:
        return False
    if any(type(t) not in PLAIN or t.dtype is not dtype or not t.is_contiguous() for t in stacks):
        return False
    if type(x_TD) not in PLAIN or type(weights_TK) not in PLAIN or experts_TK.dtype is not torch.int64:
        return False
    if any(t.device.type != "cpu" for t in (weights_TK, experts_TK, *stacks)) or is_watched():
        return False
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is not dtype:
        return False
    return bool(_fast_formats() & (2 if dtype is torch.bfloat16 else 1))


def apply_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """As `model.layers.moe.experts.apply_experts`, for tensors that `fits` accepts.

    Raises IndexError where an expert's number is not below E, and MemoryError.
    """
    arguments = (x_TD.contiguous(), weights_TK.float().contiguous(), experts_TK.contiguous())
    stacks = (w_gate_EFD, w_up_EFD, w_down_EDF)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*arguments[:2], *stacks)):
        apply: Callable[..., Tensor] = _FusedExperts.apply
        return apply(*arguments, *stacks)
    return _forward(arguments, stacks)


def _forward(
    arguments: tuple[Tensor, ...], stacks: tuple[Tensor, ...], *, gate_up_N2F: Tensor | None = None
) -> Tensor:
    x_TD, _, experts_TK = arguments
    y_TD = torch.empty_like(x_TD)
    few = experts_TK.numel() if len(x_TD) <= FEW_TOKENS else FEW_ROWS
    _run("forward", arguments, stacks, few=few, gate_up=gate_up_N2F, y=y_TD)
    return y_TD


class _FusedExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        x_TD, _, experts_TK, w_gate_EFD, *_ = tensors
        gate_up_N2F = x_TD.new_empty(experts_TK.numel(), 2 * w_gate_EFD.shape[1])
        y_TD = _forward(tensors[:3], tensors[3:], gate_up_N2F=gate_up_N2F)
        ctx.save_for_backward(*tensors, gate_up_N2F)
        return y_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, gate_up_N2F = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            return experts_reference.gradients(tuple(tensors), grads[0], ctx.needs_input_grad)
        needs_x, needs_weights, _, *needs_stacks = ctx.needs_input_grad
        x_TD, weights_TK, _, w_gate_EFD, w_up_EFD, w_down_EDF = tensors
        has_gated = needs_stacks[0] or needs_stacks[1]
        wanted = {
            "grad_x": torch.empty_like(x_TD) if needs_x else None,
            "grad_weights": torch.empty_like(weights_TK) if needs_weights else None,
            "grad_gate": torch.empty_like(w_gate_EFD) if has_gated else None,
            "grad_up": torch.empty_like(w_up_EFD) if has_gated else None,
            "grad_down": torch.empty_like(w_down_EDF) if needs_stacks[2] else None,
        }
        grad_y_TD = grads[0].contiguous()
        _run("backward", tensors[:3], tensors[3:], few=0, gate_up=gate_up_N2F, grad_y=grad_y_TD, **wanted)
        of_gate = wanted["grad_gate"] if needs_stacks[0] else None
        of_up = wanted["grad_up"] if needs_stacks[1] else None
        return wanted["grad_x"], wanted["grad_weights"], None, of_gate, of_up, wanted["grad_down"]


def _run(
    direction: str,
    arguments: tuple[Tensor, ...] | list[Tensor],
    stacks: tuple[Tensor, ...] | list[Tensor],
    *,
    few: int,
    **arrays: Tensor | None,
) -> None:
    """Call the kernel; all tensors must be contiguous and outlive the call."""
    x_TD, _, experts_TK = arguments
    n_experts, d_expert, d_model = stacks[0].shape
    call = _Call(
        *(*experts_TK.shape, d_model, d_expert, n_experts, torch.get_num_threads(), few),
        *(tensor.data_ptr() for tensor in (*arguments, *stacks)),
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in arrays.items()},
    )
    kernel = getattr(native.library(), f"experts_fused_{direction}")
    error = kernel(ctypes.byref(call), int(x_TD.dtype is torch.bfloat16))
    if error == 1:
        raise IndexError(f"a chosen expert's number is not in 0 .. {n_experts - 1}")
    if error:
        raise MemoryError(f"no memory for {experts_TK.numel()} rows of experts: take fewer tokens at a time")


@cache
def _fast_formats() -> int:
    """Fast formats: bit 0 for fp32, bit 1 for bf16; 0 without compiled kernels, or with those of another tree."""
    kernel = getattr(native.library(), "experts_fused_is_fast", None)
    return 0 if kernel is None else int(kernel())
