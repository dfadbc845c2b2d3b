"""Linear map with 8-bit products in forward and backward; its weight stays a full-precision master.

It saves references to its input and weight for the backward pass, as a plain linear map does. `int8.py` and `fp8.py` are
the formats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from model.config import ConfigError
from model.layers.formats import product_dtype
from model.layers.quantisation.fp8 import FP8
from model.layers.quantisation.int8 import Int8

EightBitMode = Literal["int8", "fp8"]


class Arithmetic(Protocol):
    """Interface of the products of a linear map y = x w^T with x [T, K], w [N, K] and the gradient g [T, N] of y."""

    def forward_product(self, x_TK: Tensor, w_NK: Tensor, out_dtype: torch.dtype) -> Tensor:
        """x w^T, [T, N]."""

    def input_gradient(self, g_TN: Tensor, w_NK: Tensor) -> Tensor:
        """g w, [T, K], fp32; stochastic rounding uses the default random generator."""

    def weight_gradient(self, g_TN: Tensor, x_TK: Tensor) -> Tensor:
        """g^T x, [N, K], fp32."""

    def refusal(self, device: torch.device) -> str | None:
        """The reason why a device cannot compute it, and what to do; None if it can."""


def arithmetic_of(mode: str) -> Arithmetic:
    """The arithmetic of a mode. Raises ConfigError for an unknown mode."""
    if mode not in get_args(EightBitMode):
        raise ConfigError(f"8-bit training has the modes {', '.join(get_args(EightBitMode))}, not {mode!r}")
    return Int8() if mode == "int8" else FP8()


def eight_bit_linear(x: Tensor, w_NK: Tensor, bias_N: Tensor | None, arithmetic: Arithmetic) -> Tensor:
    """As F.linear: [..., K] -> [..., N], in autocast's dtype if it is on, else in x's; biases are added unquantised.

    Raises NotImplementedError for weights that are spread over ranks as DTensors.
    """
    if isinstance(w_NK, DTensor) or isinstance(x, DTensor):
        raise NotImplementedError("8-bit products take plain tensors: train tensor-parallel models in bf16")
    x_TK = x.reshape(-1, x.shape[-1])
    apply: Callable[..., Tensor] = _Linear.apply
    y = apply(x_TK, w_NK, arithmetic, product_dtype(x)).view(*x.shape[:-1], w_NK.shape[0])
    return y if bias_N is None else y + bias_N.to(y.dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TK: Tensor, w_NK: Tensor, arithmetic: Arithmetic, out_dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x_TK, w_NK)
        ctx.arithmetic = arithmetic
        return arithmetic.forward_product(x_TK, w_NK, out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TN: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_TK, w_NK = ctx.saved_tensors
        arithmetic: Arithmetic = ctx.arithmetic
        needs_x, needs_w = ctx.needs_input_grad[:2]
        grad_x = arithmetic.input_gradient(g_TN, w_NK).to(x_TK.dtype) if needs_x else None
        grad_w = arithmetic.weight_gradient(g_TN, x_TK).to(w_NK.dtype) if needs_w else None
        return grad_x, grad_w, None, None
