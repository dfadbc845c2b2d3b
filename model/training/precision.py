"""In which number format a model is multiplied while it trains; its parameters stay fp32 masters in all of them.

`bf16` and `fp16` are autocast (Micikevicius et al. 2018, arXiv:1710.03740): matrix products in 16 bits, sums over layers,
norms, router, softmax and loss in fp32. bf16 has fp32's range and needs nothing more. fp16 underflows: its loss is scaled
up before the backward pass, and updates whose gradients overflowed are left out. It is for CUDA only: CPUs emulate it at a
hundredth of the speed. Knows nothing of losses or optimisers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from model.config import ConfigError
from model.layers.experts import apply_experts
from model.layers.moe import ApplyExperts, Experts

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError for an unknown format and for one that the device cannot train in."""
    if precision not in DTYPES:
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision 'fp16' is for CUDA, and this run is on {device.type}: use 'bf16'")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU has no bf16: use precision 'fp16' or 'fp32'")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context of forward passes."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Scales and unscales in fp16; does nothing at all in the other formats."""
    return GradScaler(device.type, enabled=precision == "fp16")


def cast_experts(model: nn.Module) -> None:
    """Makes routed experts multiply in the autocast format too: autocast does not know grouped matrix products."""
    for module in model.modules():
        # What has been replaced already, for 8-bit training or other devices, chooses its own formats.
        if isinstance(module, Experts) and module.apply_experts is apply_experts:
            module.apply_experts = _InAutocastFormat(apply_experts)


class _InAutocastFormat:
    """`apply` on operands in the format of the autocast that is on, if one is; the router's weights stay fp32."""

    def __init__(self, apply: ApplyExperts) -> None:
        self.apply = apply

    def __call__(
        self,
        x_TD: Tensor,
        weights_TK: Tensor,
        experts_TK: Tensor,
        w_gate_EFD: Tensor,
        w_up_EFD: Tensor,
        w_down_EDF: Tensor,
    ) -> Tensor:
        device = x_TD.device.type
        if not torch.is_autocast_enabled(device):
            return self.apply(x_TD, weights_TK, experts_TK, w_gate_EFD, w_up_EFD, w_down_EDF)
        dtype = torch.get_autocast_dtype(device)
        x_TD, *weights = (operand.to(dtype) for operand in (x_TD, w_gate_EFD, w_up_EFD, w_down_EDF))
        return self.apply(x_TD, weights_TK, experts_TK, *weights)
