"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama on Hugging Face.

Dimension i of a head turns together with dimension i + C/2. Knows nothing of attention.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines per position, [..., C], in the dtype of the heads that they turn."""

    cos: Tensor
    sin: Tensor


@lru_cache(maxsize=8)
def _table(
    d_head: int, theta: float, max_positions: int, dtype: torch.dtype, device: torch.device
) -> Rotation:
    with torch.inference_mode(False):  # the table outlives the call that made it, and training uses it too
        frequencies = theta ** -(torch.arange(0, d_head, 2, device=device, dtype=torch.float32) / d_head)
        angles = torch.arange(max_positions, device=device, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotation_at(
    positions: Tensor, d_head: int, theta: float, max_positions: int, dtype: torch.dtype
) -> Rotation:
    """Rotation for integer positions of any shape, each below `max_positions`. Angles are computed in fp32."""
    cos, sin = _table(d_head, theta, max_positions, dtype, positions.device)
    return Rotation(cos[positions], sin[positions])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns heads [..., n_heads, C] by the rotation [..., C] of their positions."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation
    return x * cos[..., None, :] + torch.cat((-second, first), dim=-1) * sin[..., None, :]
