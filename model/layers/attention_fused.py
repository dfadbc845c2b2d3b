"""Causal attention of whole sequences on CPU by compiled kernels, forward and backward (`model/csrc/attention_*`).

Keys and values are packed once for all heads that share them; the scores of a few queries with all their keys stay in the
first cache, and none above the diagonal are made. What is kept for the backward pass is the answer and a number per query
(Dao 2023, arXiv:2307.08691). Products are in the inputs' format, sums and softmax in fp32.

Whether it may be used is `fits`' answer; modules ask it. Knows nothing of projections, rotations or caches.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model import native
from model.layers.watched import PLAIN, is_watched

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `attention::Call` in `model/csrc/attention_heads.h`."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "length", "heads", "groups", "d_key", "d_value", "threads")
        ),
        ("scale", ctypes.c_double),
        *((name, _POINTER) for name in ("first", "q", "k", "v", "y", "lse")),
        *((name, _POINTER) for name in ("grad_y", "grad_q", "grad_k", "grad_v")),
    ]


def fits(*heads: Tensor) -> bool:
    """Whether `attend` may be used on them: plain CPU tensors in a format that this processor multiplies fast.

    Under autocast that format counts which it would choose. Not while something watches torch's operations.
    """
    if any(type(t) not in PLAIN or t.device.type != "cpu" or t.numel() == 0 for t in heads):
        return False
    dtypes = {_format(t) for t in heads}
    if len(dtypes) > 1 or is_watched():
        return False
    (dtype,) = dtypes
    return dtype in _DTYPES and bool(_fast_formats() & (2 if dtype is torch.bfloat16 else 1))


def attend(
    q_BSHC: Tensor,
    k_BSGC: Tensor,
    v_BSGU: Tensor,
    scale: float | None = None,
    first_BS: Tensor | None = None,
) -> Tensor:
    """[B, S, H, U]: each position looks at itself and those before it; G divides H, groups of heads share keys.

    For tensors that `fits` accepts. `scale` of the scores is C ** -0.5 unless given; `first_BS`, int32, is the first
    position that each one sees, never falling along a row: packed documents, sliding windows. Gradients have none of their
    own. Raises ValueError for shapes that do not go together and such positions, and MemoryError.
    """
    *_, heads, width = q_BSHC.shape
    groups = k_BSGC.shape[2]
    if (
        k_BSGC.shape[:3] != v_BSGU.shape[:3]
        or k_BSGC.shape[:2] != q_BSHC.shape[:2]
        or k_BSGC.shape[3] != width
    ):
        shapes = ", ".join(str(tuple(t.shape)) for t in (q_BSHC, k_BSGC, v_BSGU))
        raise ValueError(f"queries, keys and values do not go together: {shapes}")
    if heads % groups:
        raise ValueError(f"{groups} heads of keys cannot be shared evenly by {heads} heads of queries")
    if first_BS is not None and (first_BS.dtype is not torch.int32 or first_BS.shape != q_BSHC.shape[:2]):
        raise ValueError(
            f"first positions must be int32 {tuple(q_BSHC.shape[:2])}, not {tuple(first_BS.shape)}"
        )
    first_BS = None if first_BS is None else first_BS.contiguous()
    arguments = tuple(t.to(_format(t)).contiguous() for t in (q_BSHC, k_BSGC, v_BSGU))
    scale = width**-0.5 if scale is None else scale
    if torch.is_grad_enabled() and any(t.requires_grad for t in arguments):
        y_BSHU: Tensor = _FusedAttention.apply(*arguments, scale, first_BS)  # type: ignore[no-untyped-call]
        return y_BSHU
    return _forward(arguments, scale, first_BS, None)


def _forward(
    arguments: tuple[Tensor, ...], scale: float, first_BS: Tensor | None, lse_BHS: Tensor | None
) -> Tensor:
    q_BSHC, _, v_BSGU = arguments
    y_BSHU = q_BSHC.new_empty(*q_BSHC.shape[:3], v_BSGU.shape[3])
    _run("forward", arguments, scale, first=first_BS, y=y_BSHU, lse=lse_BHS)
    return y_BSHU


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BSHC: Tensor, k_BSGC: Tensor, v_BSGU: Tensor, scale: float, first_BS: Tensor | None
    ) -> Tensor:
        batch, length, heads, _ = q_BSHC.shape
        lse_BHS = torch.empty(batch, heads, length)
        y_BSHU = _forward((q_BSHC, k_BSGC, v_BSGU), scale, first_BS, lse_BHS)
        ctx.save_for_backward(q_BSHC, k_BSGC, v_BSGU, y_BSHU, lse_BHS, first_BS)
        ctx.scale = scale
        return y_BSHU

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSHU: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, y_BSHU, lse_BHS, first_BS = ctx.saved_tensors
        gradients = [torch.empty_like(t) for t in arguments]
        names = ("grad_q", "grad_k", "grad_v")
        grad_BSHU = grad_BSHU.contiguous()
        wanted = {"grad_y": grad_BSHU, **dict(zip(names, gradients, strict=True))}
        _run("backward", arguments, ctx.scale, first=first_BS, y=y_BSHU, lse=lse_BHS, **wanted)
        return *gradients, None, None


def _run(
    direction: str, arguments: tuple[Tensor, ...] | list[Tensor], scale: float, **arrays: Tensor | None
) -> None:
    """Calls the kernel; all tensors are contiguous and outlive the call."""
    q_BSHC, k_BSGC, v_BSGU = arguments
    batch, length, heads, d_key = q_BSHC.shape
    call = _Call(
        *(batch, length, heads, k_BSGC.shape[2], d_key, v_BSGU.shape[3], torch.get_num_threads(), scale),
        **{name: tensor.data_ptr() for name, tensor in zip("qkv", arguments, strict=True)},
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in arrays.items()},
    )
    kernel = getattr(native.library(), f"attention_fused_{direction}")
    error = kernel(ctypes.byref(call), int(q_BSHC.dtype is torch.bfloat16))
    if error == 1:
        raise ValueError("the first position that each one sees must not fall, be negative or lie behind it")
    if error:
        raise MemoryError(f"no memory for attention over {length} positions: take shorter or fewer sequences")


def _format(heads: Tensor) -> torch.dtype:
    """What the heads are multiplied in."""
    if torch.is_autocast_enabled("cpu") and heads.dtype in _DTYPES:
        return torch.get_autocast_dtype("cpu")
    return heads.dtype


@cache
def _fast_formats() -> int:
    """Bit 0 for fp32, bit 1 for bf16; 0 without compiled kernels, or with those of a tree that has other ones."""
    kernel = getattr(native.library(), "attention_fused_is_fast", None)
    return 0 if kernel is None else int(kernel())
