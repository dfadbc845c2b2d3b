"""Packed weights of the compiled engine: packed once at load, in fp32, bf16, int8 or int4.

A matrix [N, K] becomes strips of 32 outputs, [N/32][K/group][32][group], so that one product reads it from front to
back; see model/csrc/serving/products.h; the kernels' library packs them. Int8 weights have one scale per output: the
largest magnitude of its row is 127. Int4 weights have a scale and a least number per 32 of an output's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from model.serving.executors.packed_memory import Memory

Weights = Literal["fp32", "bf16", "int8", "int8-dynamic", "int4"]
KINDS: dict[str, int] = {kind: number for number, kind in enumerate(get_args(Weights))}
GROUP: dict[str, int] = {"fp32": 1, "bf16": 2, "int8": 4, "int8-dynamic": 32, "int4": 32}
#: Of one output's group; int4 has two bf16 numbers in addition to its weights.
GROUP_BYTES: dict[str, int] = {"fp32": 4, "bf16": 4, "int8": 4, "int8-dynamic": 32, "int4": 20}

STRIP = 32
HALF = 16


@dataclass(frozen=True)
class PackedStack:
    """Packed matrices [N, K] of one shape, one after the other; an ordinary matrix is a stack of one."""

    weights: Weights
    n: int
    k: int
    data: Tensor  # uint8
    bytes_each: int
    scales: Tensor | None = None  # fp32 [matrices, N rounded up to STRIP]
    starts: Tensor | None = None  # int32, the same shape, of int8: -128 times the sum of an output's weights


def pack(
    library: ctypes.CDLL,
    weight: Tensor | Sequence[Tensor],
    weights: Weights,
    memory: Memory,
    interleaved: Tensor | Sequence[Tensor] | None = None,
) -> PackedStack:
    """Pack [N, K], a stack [M, N, K], or M separate matrices [N, K], of any float dtype.

    With `interleaved`, of the same shape, strips are 16 rows of `weight`, then the same 16 of `interleaved`: outputs 2
    N', with N' the next multiple of 16. With filled memory only the weights' shape is used. Raises MemoryError where
    there is no working memory.
    """
    matrices = list(zip(*(_apart(part) for part in (weight, interleaved) if part is not None), strict=True))
    n_rows, k = matrices[0][0].shape
    n = n_rows if interleaved is None else 2 * -(-n_rows // HALF) * HALF
    stack = _taken(memory, weights, len(matrices), n, k)
    for i, parts in enumerate(() if memory.is_filled else matrices):
        sources = _readable(parts)
        table = matrix(stack, i)
        second = sources[1].data_ptr() if interleaved is not None else None
        is_bf16 = sources[0].dtype is torch.bfloat16
        if not library.serve_pack(ctypes.byref(table), sources[0].data_ptr(), second, n_rows, is_bf16):
            raise MemoryError(f"no memory to pack a matrix of {n} x {k}")
    return stack


def _taken(memory: Memory, weights: Weights, n_matrices: int, n: int, k: int) -> PackedStack:
    """Take one piece of memory: the matrices, all multiples of 128 bytes, then their scales and starts."""
    n_outputs = -(-n // STRIP) * STRIP
    bytes_each = n_outputs * -(-k // GROUP[weights]) * GROUP_BYTES[weights]
    data_bytes, rest_bytes = n_matrices * bytes_each, n_matrices * n_outputs * 4
    n_rests = {"int8": 2, "int8-dynamic": 1}.get(weights, 0)
    piece = memory.take(data_bytes + n_rests * rest_bytes)
    data, *rests = torch.split(piece, [data_bytes, *[rest_bytes] * n_rests])
    scales = rests[0].view(torch.float32).view(n_matrices, n_outputs) if n_rests > 0 else None
    starts = rests[1].view(torch.int32).view(n_matrices, n_outputs) if n_rests > 1 else None
    return PackedStack(weights, n, k, data, bytes_each, scales, starts)


def _apart(weight: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """The separate matrices of a matrix, a stack, or a sequence."""
    if not isinstance(weight, Tensor):
        return weight
    return [weight] if weight.dim() == 2 else weight.unbind()


def _readable(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The matrices contiguous, all in bf16 or else all in fp32."""
    is_bf16 = all(each.dtype is torch.bfloat16 for each in matrices)
    return [(each.detach() if is_bf16 else each.detach().float()).contiguous() for each in matrices]


class Matrix(ctypes.Structure):
    """One packed matrix, as `Matrix` of serving/products.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("n", ctypes.c_int32),
        ("k", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("padding", ctypes.c_int32),
    ]


def matrix(packed: PackedStack, index: int = 0) -> Matrix:
    """One matrix of a stack; the caller must keep the stack alive."""
    data = packed.data[index * packed.bytes_each :]
    rest = [pointer(None if tensor is None else tensor[index]) for tensor in (packed.scales, packed.starts)]
    return Matrix(pointer(data), *rest, packed.n, packed.k, KINDS[packed.weights], 0)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """A tensor's address; null for None. The caller must keep the tensor alive."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
