"""AdamW on CPU by a compiled kernel (`model/csrc/adamw_fused.cpp`): one pass over memory, a factor on gradients included.

Loshchilov & Hutter, arXiv:1711.05101, with the state that `torch.optim.AdamW` keeps. Weights and moments are fp32,
gradients fp32 or bf16; a copy of the weights in bf16 is written in the same pass.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model import native
from model.layers.watched import PLAIN, is_watched

_GRADIENTS = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `adamw::Call` in `model/csrc/adamw_fused.cpp`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "threads")),
        *((name, ctypes.c_float) for name in ("factor", "kept", "keeps_first", "adds_first")),
        *((name, ctypes.c_float) for name in ("keeps_second", "adds_second", "step_size", "deviation")),
        *((name, ctypes.c_float) for name in ("eps", "unused")),
        *((name, _POINTER) for name in ("weights", "gradient", "first", "second", "copy")),
    ]


@dataclass(frozen=True)
class Rates:
    """Rates of one step of one parameter: `step` counts from 1, `factor` multiplies the gradient before all else."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int
    factor: float = 1.0


def is_usable() -> bool:
    """Whether there is a kernel, and nothing traces torch's operations, which would miss it."""
    return _library() is not None and not is_watched()


def reads(gradient: Tensor) -> bool:
    """Whether `squares` and `step_` take this gradient: a plain, contiguous CPU tensor in fp32 or bf16."""
    return gradient.dtype in _GRADIENTS and _is_plain(gradient)


def moves(weights: Tensor) -> bool:
    """Whether `step_` moves these weights: a plain, contiguous CPU tensor in fp32."""
    return weights.dtype is torch.float32 and _is_plain(weights)


def step_(
    weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, copy: Tensor | None, rates: Rates
) -> None:
    """One step in place, of tensors of one shape that `reads` and `moves` accept; the copy is bf16.

    first <- beta1 first + (1 - beta1) g and second <- beta2 second + (1 - beta2) g^2 with g = factor * gradient; then
    weights <- (1 - lr decay) weights - lr first' / (sqrt(second') + eps), where ' divides by 1 - beta^step.
    Raises ValueError where the shapes differ.
    """
    others = (gradient, first, second) if copy is None else (gradient, first, second, copy)
    if any(other.shape != weights.shape for other in others):
        shapes = ", ".join(str(list(other.shape)) for other in others)
        raise ValueError(
            f"weights of shape {list(weights.shape)} cannot be moved by tensors of shapes {shapes}"
        )
    call = _Call(
        weights.numel(),
        torch.get_num_threads(),
        rates.factor,
        1 - rates.learning_rate * rates.weight_decay,
        *(rates.beta1, 1 - rates.beta1, rates.beta2, 1 - rates.beta2),
        rates.learning_rate / (1 - rates.beta1**rates.step),
        1 / math.sqrt(1 - rates.beta2**rates.step),
        rates.eps,
        0.0,
        *(tensor.data_ptr() for tensor in (weights, gradient, first, second)),
        None if copy is None else copy.data_ptr(),
    )
    _library().adamw_fused_step(ctypes.byref(call), int(gradient.dtype is torch.bfloat16))
    # torch does not see the kernel's writes: bump the versions, so that a graph which saved these tensors raises.
    torch.autograd.graph.increment_version([weights, *others[1:]])


def squares(gradient: Tensor) -> float:
    """The sum of the squares of a tensor that `reads` accepts."""
    library, count = _library(), gradient.numel()
    sums = torch.empty(library.adamw_fused_blocks(count))
    is_bf16 = int(gradient.dtype is torch.bfloat16)
    whole: float = library.adamw_fused_squares(
        gradient.data_ptr(), count, torch.get_num_threads(), sums.data_ptr(), is_bf16
    )
    return whole


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in PLAIN and tensor.device.type == "cpu" and tensor.is_contiguous()


@cache
def _library() -> Any:
    """The library; None if there is none, or its kernels are of another tree."""
    library: Any = native.library()
    if getattr(library, "adamw_fused_step", None) is None:
        return None
    library.adamw_fused_blocks.restype = ctypes.c_int64
    library.adamw_fused_blocks.argtypes = (ctypes.c_int64,)
    library.adamw_fused_squares.restype = ctypes.c_double
    integers = (ctypes.c_int64, ctypes.c_int64)
    library.adamw_fused_squares.argtypes = (_POINTER, *integers, _POINTER, ctypes.c_int)
    return library
