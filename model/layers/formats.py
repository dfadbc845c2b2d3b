"""Number format that products are computed in: autocast's, or the operands'."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What the autocast that is on for x's device casts x to; None where none is on, and for double, which it leaves."""
    device = x.device.type
    if x.dtype is torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def product_dtype(x: Tensor) -> torch.dtype:
    """What a linear map of x multiplies in."""
    return autocast_dtype(x) or x.dtype
