"""Matrix products in int8 with a scale for each row of the left and each column of the right factor.

Scales are dynamic: the largest magnitude along the contracted dimension becomes 127. Activations and weights round to
nearest. Gradients round stochastically, up with the probability of their fraction (as in arXiv:1502.02551): a
gradient's row holds few large numbers and many below half a step, which nearest rounding would all turn to zero, a
bias that adds up over steps, where unbiased noise averages out. The scheme is SwitchBack's (arXiv:2304.13013): the
forward product and the gradient of the input in 8 bits; the gradient of the weight, which sums over the tokens of a
batch, far more terms of far more different size, in 16.

Shapes: M rows, K summed over, N columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 127
MAX_TERMS = (2**31 - 1) // LARGEST**2 // 8 * 8  # of a sum of products of int8 that fits int32
CUDA_MULTIPLE, CUDA_MIN_ROWS = 8, 24  # cuBLAS needs multiples of 8 in K and N, and more than 16 rows


@dataclass(frozen=True)
class Int8:
    """`Arithmetic` of `model/layers/quantisation/linear.py` in int8."""

    stochastic: bool = True  # rounding of gradients; off: to nearest

    def forward_product(self, x_TK: Tensor, w_NK: Tensor, out_dtype: torch.dtype) -> Tensor:
        return multiply(x_TK, w_NK.T).to(out_dtype)

    def input_gradient(self, g_TN: Tensor, w_NK: Tensor) -> Tensor:
        noise_TN = torch.rand_like(g_TN, dtype=torch.float32) if self.stochastic else None
        return multiply(g_TN, w_NK, noise_TN)

    def weight_gradient(self, g_TN: Tensor, x_TK: Tensor) -> Tensor:
        return multiply_bf16(g_TN.T, x_TK)

    def refusal(self, device: torch.device) -> str | None:
        del device
        return None


def multiply(a_MK: Tensor, b_KN: Tensor, noise_MK: Tensor | None = None) -> Tensor:
    """a @ b in int8, summed exactly in int32 and scaled back to fp32 [M, N]; with noise, `a` rounds stochastically.

    Non-finite numbers make their row or column non-finite. Both factors may have any strides.
    """
    if 0 in (*a_MK.shape, *b_KN.shape):
        return a_MK.new_zeros(a_MK.shape[0], b_KN.shape[1], dtype=torch.float32)
    a_q, scale_M1 = quantise(a_MK, dim=1, noise=noise_MK)
    b_q, scale_1N = quantise(b_KN, dim=0)
    return exact_product(a_q, b_q, strict=a_q.is_cuda).mul_(scale_M1).mul_(scale_1N)


def multiply_bf16(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """a @ b of both factors rounded to bf16, fp32 [M, N].

    On CPU the rounded numbers are multiplied in fp32: many processors with fast int8 have no products of bf16.
    """
    a_MK, b_KN = a_MK.bfloat16(), b_KN.bfloat16()
    return (a_MK @ b_KN).float() if a_MK.is_cuda else a_MK.float() @ b_KN.float()


def quantise(x: Tensor, dim: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantise x to int8; returns it and fp32 scales with size 1 at `dim`: x is about int8 * scale.

    Off by at most half a scale; with noise, uniform in [0, 1), by less than a scale and right on average.
    """
    scale = (x.abs().amax(dim, keepdim=True).float() / LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
    ratio = x.float() / scale
    ratio = ratio.round_() if noise is None else ratio.add_(noise).floor_()
    return ratio.clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def exact_product(a_MK: Tensor, b_KN: Tensor, *, strict: bool) -> Tensor:
    """int8 [M, K] @ int8 [K, N] as fp32; `strict` pads to sizes that CUDA supports. Zeros add nothing to a sum."""
    n_rows, n_terms = a_MK.shape
    n_columns = b_KN.shape[1]
    if strict:
        terms, columns = -n_terms % CUDA_MULTIPLE, -n_columns % CUDA_MULTIPLE
        a_MK = F.pad(a_MK, (0, terms, 0, max(CUDA_MIN_ROWS - n_rows, 0)))
        b_KN = F.pad(b_KN, (0, columns, 0, terms))
    pieces = zip(torch.split(a_MK, MAX_TERMS, 1), torch.split(b_KN, MAX_TERMS, 0), strict=True)
    products = [torch._int_mm(a, b).float() for a, b in pieces]
    total = products[0]
    for product in products[1:]:
        total += product
    return total[:n_rows, :n_columns]
