"""Matrix products in 8-bit floats: e4m3 for activations and weights, e5m2 for gradients (arXiv:2209.05433).

Scales are dynamic, one for each tensor: its largest magnitude becomes the format's. Delayed scaling (from the
history of earlier steps) would save a pass over each operand, but add state to the parameters: a model would
resume exactly only with it, and overflow after a sudden growth. Rounding is to nearest: a float's step shrinks with
the number, so that small gradients survive as they do not in int8.

Operands are laid out and padded for CUDA (compute capability 8.9 and later) on every device, so that tests on a CPU,
where `torch._scaled_mm` is a slow emulation, run the same path. Shapes: M rows, K summed over, N columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES, GRADIENTS = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # of K and N
LEAST_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class FP8:
    """`Arithmetic` of `model/layers/quantisation/linear.py` in 8-bit floats."""

    def forward_product(self, x_TK: Tensor, w_NK: Tensor, out_dtype: torch.dtype) -> Tensor:
        return multiply(x_TK, w_NK.T, out_dtype=out_dtype, fast=True)

    def input_gradient(self, g_TN: Tensor, w_NK: Tensor) -> Tensor:
        return multiply(g_TN, w_NK, a_dtype=GRADIENTS)

    def weight_gradient(self, g_TN: Tensor, x_TK: Tensor) -> Tensor:
        return multiply(g_TN.T, x_TK, a_dtype=GRADIENTS)

    def refusal(self, device: torch.device) -> str | None:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY:
            return None
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"fp8 needs compute capability 8.9 or later and this device has {found}: train in int8 or bf16"


def multiply(
    a_MK: Tensor,
    b_KN: Tensor,
    *,
    a_dtype: torch.dtype = VALUES,
    out_dtype: torch.dtype = torch.float32,
    fast: bool = False,
) -> Tensor:
    """a @ b with `a` in `a_dtype` and `b` in e4m3, [M, N] in `out_dtype`: fp32 or bf16.

    `fast` lets the hardware sum in fewer bits, which is enough for activations and not for gradients. Non-finite
    numbers make the product non-finite. Both factors may have any strides.
    """
    if 0 in (*a_MK.shape, *b_KN.shape):
        return a_MK.new_zeros(a_MK.shape[0], b_KN.shape[1], dtype=out_dtype)
    n_columns, terms = b_KN.shape[1], -a_MK.shape[1] % MULTIPLE
    a_q, a_scale = quantise(a_MK, a_dtype)
    b_q, b_scale = quantise(b_KN, VALUES)
    a_q = _padded(a_q, 0, terms)  # row-major
    b_q = _padded(b_q.T, -n_columns % MULTIPLE, terms).T  # column-major
    y_MN = torch._scaled_mm(a_q, b_q, a_scale, b_scale, out_dtype=out_dtype, use_fast_accum=fast)
    return y_MN[:, :n_columns]


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantise x to an 8-bit float format; returns it and the fp32 scale to multiply it with.

    Off by at most a 16th (e4m3) or an 8th (e5m2) of each number, near zero by half the format's least step.
    """
    largest = torch.finfo(dtype).max
    scale = (x.abs().amax().float() / largest).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x.float() / scale).clamp_(-largest, largest).to(dtype), scale


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """Pad with rows and columns of zeros, contiguous. (torch cannot pad 8-bit floats; their zeros are zero bytes.)"""
    return F.pad(x.contiguous().view(torch.int8), (0, columns, 0, rows)).view(x.dtype)
