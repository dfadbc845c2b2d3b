"""Optimiser moments in eight bits: 256 neighbours share a scale, each is one of 256 levels.

Block-wise dynamic quantisation (Dettmers et al. 2021, arXiv:2110.02861): the levels cover seven decades below a
block's largest magnitude, finest where most of a moment's values are. Signed levels are for first moments, unsigned
ones for second moments. One deviation from the paper: a second moment above zero never becomes zero. Divided by its
root, an element whose gradient then stays away for a step would otherwise move by learning rate x m / eps.

Shapes: N elements, P blocks of `BLOCK` elements, the last one possibly shorter.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
N_DECADES = 7
# A code is looked up by a float's first 20 bits: sign, exponent, 11 bits of mantissa. Levels are at least 0.7 % of
# the scale apart, so that a code is the nearest one unless a number is within 2^-12 of the middle of two.
PREFIX_BITS = 20


@cache
def levels(signed: bool, device: torch.device) -> Tensor:
    """The 256 levels in rising order, fp32 between -1 and 1 or 0 and 1."""
    decades = []
    for decade in range(N_DECADES):
        n_levels = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1.0, n_levels + 1, dtype=torch.float64)
        decades.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - N_DECADES + 1))
    below_one = torch.cat(decades)
    negative = -below_one.flip(0) if signed else below_one[:0]
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return torch.cat((negative, zero, below_one, one)).float().to(device)


def encode(x_N: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """fp32 [N] to codes, uint8 [N], and scales, fp32 [P]: the largest magnitude of each block.

    Unsigned encoding takes numbers of at least zero. A NaN or an infinity spoils its whole block, visibly: it
    decodes to numbers that are not finite.
    """
    n_elements = x_N.numel()
    x_PB = F.pad(x_N, (0, -n_elements % BLOCK)).view(-1, BLOCK)
    scale_P = x_PB.abs().amax(1)
    ratio_PB = x_PB / scale_P.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    prefix_N = (ratio_PB.view(torch.int32) >> (32 - PREFIX_BITS)) & (2**PREFIX_BITS - 1)
    codes = _codes_by_prefix(signed, x_N.device).index_select(0, prefix_N.flatten())
    return codes[:n_elements], scale_P


def decode(codes_N: Tensor, scale_P: Tensor, *, signed: bool) -> Tensor:
    """The inverse of `encode` up to rounding: fp32 [N]."""
    n_elements = codes_N.numel()
    codes = F.pad(codes_N, (0, -n_elements % BLOCK)).to(torch.int32)
    x_PB = levels(signed, codes.device).index_select(0, codes).view(-1, BLOCK) * scale_P[:, None]
    return x_PB.flatten()[:n_elements]


@cache
def _codes_by_prefix(signed: bool, device: torch.device) -> Tensor:
    """The nearest level's code for each prefix of a float, uint8 [2^20]."""
    prefixes = torch.arange(2**PREFIX_BITS)
    shift = 32 - PREFIX_BITS
    middles = (prefixes << shift) | (1 << (shift - 1))  # of the numbers that share the prefix
    as_int32 = torch.where(middles >= 2**31, middles - 2**32, middles).to(torch.int32)
    values = as_int32.view(torch.float32)
    codebook = levels(signed, torch.device("cpu"))
    codes = torch.bucketize(values, (codebook[1:] + codebook[:-1]) / 2)
    if not signed:
        codes = torch.where(values > 0, codes.clamp_min(1), codes)
    codes[0] = int((codebook == 0).nonzero())  # the prefix of zero itself
    return codes.to(torch.uint8).to(device)
