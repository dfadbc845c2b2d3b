"""Causal attention of whole sequences on CPU by compiled kernels, forward and backward (`model/csrc/attention/`).

Keys and values are packed once for all heads that share them; the scores of a few queries with all their keys stay in the
L1 cache, and none above the diagonal are computed. The backward pass needs the output and a number per query
(Dao 2023, arXiv:2307.08691). Products are in the inputs' format, sums and softmax in fp32.

Callers must check `fits` first.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from model import native
from model.layers.formats import product_dtype
from model.layers.watched import PLAIN, is_torch_wanted

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER = ctypes.c_void_p


class _Call(ctypes.Structure):
    """As `attention::Call` in `model/csrc/attention/heads.h`."""

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
    """Whether `attend` supports these heads: plain CPU tensors in a format that this processor multiplies fast.

    Under autocast its format counts. Not under `torch_instead`, nor while functions are transformed.
    """
    if any(type(t) not in PLAIN or t.device.type != "cpu" or t.numel() == 0 for t in heads):
        return False
    dtypes = {product_dtype(t) for t in heads}
    if len(dtypes) > 1 or is_torch_wanted():
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
    """Causal attention, [B, S, H, U]; G divides H, and groups of heads share keys.

    For tensors that `fits` accepts. `scale` of the scores is C ** -0.5 unless given; `first_BS`, int32 [B, S] or [1,
    S], is the first position that each one sees, never falling along a row: packed documents, sliding windows. There
    are no second derivatives. Raises ValueError for shapes or first positions that do not match, and MemoryError.
    """
    heads, width = q_BSHC.shape[2:]
    groups = k_BSGC.shape[2]
    if (
        k_BSGC.shape[:3] != v_BSGU.shape[:3]
        or k_BSGC.shape[:2] != q_BSHC.shape[:2]
        or k_BSGC.shape[3] != width
    ):
        shapes = ", ".join(str(tuple(t.shape)) for t in (q_BSHC, k_BSGC, v_BSGU))
        raise ValueError(f"the shapes of queries, keys and values do not match: {shapes}")
    if heads % groups:
        raise ValueError(f"{groups} heads of keys cannot be shared evenly by {heads} heads of queries")
    if first_BS is not None:
        rows, length = q_BSHC.shape[:2]
        if first_BS.dtype is not torch.int32 or first_BS.shape not in {(rows, length), (1, length)}:
            raise ValueError(f"first positions must be int32 {(rows, length)}, not {tuple(first_BS.shape)}")
        first_BS = first_BS.expand(rows, length).contiguous()
    q_BSHC, k_BSGC, v_BSGU = (t.to(product_dtype(t)).contiguous() for t in (q_BSHC, k_BSGC, v_BSGU))
    scale = width**-0.5 if scale is None else scale
    y_BSHU: Tensor = OPERATION(q_BSHC, k_BSGC, v_BSGU, scale, first_BS)[0]
    return y_BSHU


def _empty_answer(q_BSHC: Tensor, v_BSGU: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q_BSHC.shape
    y_BSHU = q_BSHC.new_empty(batch, length, heads, v_BSGU.shape[3])
    return y_BSHU, q_BSHC.new_empty(batch, heads, length, dtype=torch.float32)


@torch.library.custom_op("gainshare::causal_attention", mutates_args=())
def _forward(
    q_BSHC: Tensor, k_BSGC: Tensor, v_BSGU: Tensor, scale: float, first_BS: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The output, and each query's log-sum-exp [B, H, S]."""
    y_BSHU, lse_BHS = _empty_answer(q_BSHC, v_BSGU)
    _run("forward", (q_BSHC, k_BSGC, v_BSGU), scale, first=first_BS, y=y_BSHU, lse=lse_BHS)
    return y_BSHU, lse_BHS


@torch.library.custom_op("gainshare::causal_attention_backward", mutates_args=())
def _backward(
    grad_BSHU: Tensor,
    q_BSHC: Tensor,
    k_BSGC: Tensor,
    v_BSGU: Tensor,
    y_BSHU: Tensor,
    lse_BHS: Tensor,
    scale: float,
    first_BS: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (q_BSHC, k_BSGC, v_BSGU)
    grad_q, grad_k, grad_v = (torch.empty_like(t) for t in arguments)
    arrays = {"first": first_BS, "y": y_BSHU, "lse": lse_BHS, "grad_y": grad_BSHU}
    _run("backward", arguments, scale, **arrays, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
    return grad_q, grad_k, grad_v


@_forward.register_fake
def _(
    q_BSHC: Tensor, k_BSGC: Tensor, v_BSGU: Tensor, scale: float, first_BS: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _empty_answer(q_BSHC, v_BSGU)


@_backward.register_fake
def _(
    grad_BSHU: Tensor,
    q_BSHC: Tensor,
    k_BSGC: Tensor,
    v_BSGU: Tensor,
    y_BSHU: Tensor,
    lse_BHS: Tensor,
    scale: float,
    first_BS: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q_BSHC), torch.empty_like(k_BSGC), torch.empty_like(v_BSGU)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *heads, ctx.scale, first_BS = inputs
    ctx.save_for_backward(*heads, *output, first_BS)


def _differentiate(ctx: Any, grad_BSHU: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *kept, first_BS = ctx.saved_tensors
    return *_backward(grad_BSHU.contiguous(), *kept, ctx.scale, first_BS), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)

#: Registered as one torch operation, so that checkpointing, compiling and counting can select it.
OPERATION = torch.ops.gainshare.causal_attention.default


def _run(
    direction: str, arguments: tuple[Tensor, Tensor, Tensor], scale: float, **arrays: Tensor | None
) -> None:
    """Call the kernel; all tensors must be contiguous and outlive the call."""
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
        raise ValueError(
            "the first position that each one sees must not decrease, be negative or be after it"
        )
    if error:
        raise MemoryError(f"no memory for attention over {length} positions: take shorter or fewer sequences")


_formats: int | None = None  # of this process's library, once known


def _fast_formats() -> int:
    """Fast formats: bit 0 for fp32, bit 1 for bf16; 0 without compiled kernels, or with those of another tree.

    While torch compiles nothing is loaded: compiled blocks use what was known before, see `load`.
    """
    if _formats is None and not torch.compiler.is_compiling():
        load()
    return _formats or 0


def load() -> None:
    """Load the kernels before their first use, which must be done before blocks are compiled."""
    global _formats
    kernel = getattr(native.library(), "attention_fused_is_fast", None)
    _formats = 0 if kernel is None else int(kernel())
