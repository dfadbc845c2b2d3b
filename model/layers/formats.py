"""Number format that products are computed in: autocast's, or the operands'."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast casts x to; None if it is off, and for double, which it does not cast."""
    device = x.device.type
    if x.dtype is torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a linear map's products on x."""
    return autocast_dtype(x) or x.dtype
