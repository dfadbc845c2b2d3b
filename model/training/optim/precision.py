"""Number formats of training: the products' format differs, parameters stay fp32 masters in all of them.

`bf16` and `fp16` are autocast (Micikevicius et al. 2018, arXiv:1710.03740): matrix products in 16 bits, sums over
layers, norms, router, softmax and loss in fp32. bf16 has fp32's range and needs nothing more. fp16 underflows: its loss
is scaled up before the backward pass, and updates whose gradients overflowed are left out. It is for CUDA only: CPUs
emulate it at a hundredth of the speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from model.config import ConfigError
from model.layers.attention.gqa import Attention
from model.layers.attention.mla import MLA
from model.layers.ffn import SwiGLU
from model.layers.moe.experts import apply_experts
from model.layers.moe.layer import ApplyExperts, Experts
from model.layers.mtp import MTPModule
from model.training.config.run_config import PrecisionName
from model.transformer import Transformer

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError for an unknown format and for one that the device cannot train in."""
    if precision not in (names := get_args(PrecisionName)):
        raise ConfigError(f"precision must be one of {', '.join(names)}, not {precision!r}")
    if precision != "auto" and (reason := obstacle(precision, device)) is not None:
        raise ConfigError(f"{reason}: use precision 'auto'")


def obstacle(precision: str, device: torch.device) -> str | None:
    """The reason why the device cannot train in the format; None if it can."""
    if precision == "fp16" and device.type != "cuda":
        return f"precision 'fp16' is for CUDA, and this run is on {device.type}"
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "this GPU has no bf16"
    return None


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The autocast context of forward passes."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Loss scaler for fp16; disabled in the other formats."""
    return GradScaler(device.type, enabled=precision == "fp16")


def cast_experts(model: nn.Module) -> None:
    """Make routed experts multiply in the autocast format too: autocast does not cover grouped matrix products."""
    for module in model.modules():
        # Functions that were already replaced, for 8-bit training or other devices, choose their own formats.
        if isinstance(module, Experts) and module.apply_experts is apply_experts:
            module.apply_experts = _InAutocastFormat(apply_experts)


Place = tuple[nn.Module, str]  # a module and the name of one of its parameters

_PROJECTING = (Attention, MLA, SwiGLU, MTPModule)  # 8-bit forms, other classes, want masters


def cast_places(model: nn.Module) -> Iterator[Place]:
    """The fp32 masters that autocast casts whole in each pass, and that could be cast beforehand instead.

    None in a compiled model, which needs the parameters that it was compiled with, and none with hooks on the
    parameter itself.
    """
    modules = list(model.modules())
    if any(module._compiled_call_impl is not None for module in modules):
        return
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and _is_cast(module, name) and _is_plain_master(parameter):
                yield module, name


def _is_cast(module: nn.Module, name: str) -> bool:
    if type(module) is Experts:
        return isinstance(module.apply_experts, _InAutocastFormat)
    if type(module) is Transformer:
        return name == "head"
    return type(module) in _PROJECTING and name.startswith("w_")


def _is_plain_master(parameter: nn.Parameter) -> bool:
    has_hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    is_plain = type(parameter) is nn.Parameter and parameter.is_contiguous() and not has_hooks
    return is_plain and parameter.dtype is torch.float32 and parameter.requires_grad


class _InAutocastFormat:
    """Call `apply` on operands in autocast's format, if it is on; the router's weights stay fp32."""

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
