"""Weights as the compiled engine multiplies them: packed once at load, in fp32, bf16 or int8.

A matrix [N, K] becomes strips of 32 outputs, [N/32][K/group][32][group], so that one product reads it from front to back;
see model/csrc/serve_products.h. Int8 weights have one scale per output: the largest magnitude of its row is 127.
Knows nothing of which matrix belongs to which layer.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Literal["fp32", "bf16", "int8", "int8-dynamic"]
KINDS: dict[str, int] = {kind: number for number, kind in enumerate(get_args(Weights))}
GROUP: dict[str, int] = {"fp32": 1, "bf16": 2, "int8": 4, "int8-dynamic": 4}
NUMBER_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 1, "int8-dynamic": 1}

STRIP = 32
HALF = 16
CHUNK_BYTES = 64 << 20
ALIGNMENT = 64
READ_AHEAD_BYTES = 4096  # kernels ask for a little more than there is; asking never faults
INT8_LARGEST = 127


class PackedMemory:
    """Memory of packed weights, in huge pages where the system gives them: products read it at full bandwidth."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self.n_bytes = 0

    def take(self, n_bytes: int) -> Tensor:
        """`n_bytes` zeros of type uint8; they live as long as any tensor over them."""
        if self._used + n_bytes > self._chunk.numel():
            self._chunk = huge_zeros(max(n_bytes + READ_AHEAD_BYTES, CHUNK_BYTES))
            self._used = 0
        taken = self._chunk[self._used : self._used + n_bytes]
        self._used += -(-n_bytes // ALIGNMENT) * ALIGNMENT
        self.n_bytes += n_bytes
        return taken


def huge_zeros(n_bytes: int) -> Tensor:
    """Zeroed uint8 memory of its own mapping; pages that are never written take no room."""
    # Private: shared memory gets no huge pages.
    mapping = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapping, dtype=torch.uint8)


@dataclass(frozen=True)
class PackedStack:
    """Matrices [N, K] of one shape, one behind the other; an ordinary matrix is a stack of one."""

    weights: Weights
    n: int
    k: int
    data: Tensor  # uint8
    bytes_each: int
    scales: Tensor | None = None  # fp32 [matrices, N rounded up to STRIP]
    starts: Tensor | None = None  # int32, the same shape: -128 times the sum of an output's weights


def pack(weight: Tensor, weights: Weights, memory: PackedMemory) -> PackedStack:
    """Packs [N, K] or a stack [M, N, K] of any float dtype."""
    stack_MNK = weight.detach()[None] if weight.dim() == 2 else weight.detach()
    n_matrices, n, k = stack_MNK.shape
    n_strips, group = -(-n // STRIP), GROUP[weights]
    n_groups = -(-k // group)
    bytes_each = n_strips * n_groups * STRIP * group * NUMBER_BYTES[weights]
    data = memory.take(n_matrices * bytes_each)
    scales = starts = None
    if weights in ("int8", "int8-dynamic"):
        scales = torch.zeros((n_matrices, n_strips * STRIP))
        starts = torch.zeros((n_matrices, n_strips * STRIP), dtype=torch.int32)
    for i, matrix_NK in enumerate(stack_MNK):
        padded = F.pad(matrix_NK.float(), (0, n_groups * group - k, 0, n_strips * STRIP - n))
        target = data[i * bytes_each : (i + 1) * bytes_each]
        if weights == "fp32":
            _write(target, padded, torch.float32, 1)
        elif weights == "bf16":
            _write(target, padded.bfloat16(), torch.bfloat16, 2)
        else:
            assert scales is not None and starts is not None
            quantised, scales[i] = quantise(padded)
            _write(target, quantised, torch.int8, 4)
            starts[i] = -128 * quantised.sum(1, dtype=torch.int32)
    return PackedStack(weights, n, k, data, bytes_each, scales, starts)


def interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of both in turns of 16, padded with zeros: [..., F, D] twice -> [..., 2 F', D]."""
    padding = (0, 0, 0, -gate.shape[-2] % HALF)
    padded = [F.pad(part.detach(), padding).contiguous() for part in (gate, up)]
    *stack, n, k = padded[0].shape
    halves = [part.view(*stack, n // HALF, HALF, k) for part in padded]
    return torch.stack(halves, dim=-3).view(*stack, 2 * n, k)


def quantise(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [N, K] and the scale of each output, fp32 [N]: weight is about their product."""
    scale_N = weight_NK.abs().amax(1) / INT8_LARGEST
    quantised = (weight_NK / scale_N.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
    return quantised.clamp(-INT8_LARGEST, INT8_LARGEST).to(torch.int8), scale_N


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Its address; null for None. Whoever keeps the address keeps the tensor."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _write(target: Tensor, padded_NK: Tensor, dtype: torch.dtype, group: int) -> None:
    n, k = padded_NK.shape
    view = target.view(dtype).view(n // STRIP, k // group, STRIP, group)
    view.copy_(padded_NK.view(n // STRIP, STRIP, k // group, group).transpose(1, 2))
