"""Switch a model to 8-bit training and back, in place: the products change, the weights do not.

Parameters, their names and their dtype stay the same, so checkpoints, optimisers and growth are not affected. 8-bit
products are used in all linear maps of attention and feed-forwards, shared and routed experts, and the MTP modules'
projection, and only where gradients are recorded: evaluation, serving and export use the masters. Routers, embedding,
head and norms are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn
from torch.overrides import TorchFunctionMode

from model.layers.attention.gqa import Attention
from model.layers.attention.mla import MLA
from model.layers.ffn import SwiGLU
from model.layers.moe.experts import apply_experts
from model.layers.moe.layer import Experts
from model.layers.mtp import MTPModule
from model.layers.quantisation.experts import EightBitExperts
from model.layers.quantisation.linear import Arithmetic, EightBitMode, arithmetic_of, eight_bit_linear


def quantise_training(model: nn.Module, mode: EightBitMode | None) -> nn.Module:
    """Convert `model` in place to train in `mode`, or back to plain products with None; returns it.

    Raises ConfigError for an unknown mode and RuntimeError where the model's device cannot do it, or where something
    else has already replaced how experts are applied (expert parallelism: convert first).
    """
    arithmetic = None if mode is None else arithmetic_of(mode)
    _check(model, arithmetic)
    for module in model.modules():
        if isinstance(module, Experts):
            module.apply_experts = apply_experts if arithmetic is None else EightBitExperts(arithmetic)
        elif (plain := _plain_class(module)) is not None:
            _convert(module, plain, arithmetic)
    return model


def _check(model: nn.Module, arithmetic: Arithmetic | None) -> None:
    """Raises errors before anything is changed."""
    if arithmetic is not None:
        for device in {parameter.device for parameter in model.parameters()}:
            if refusal := arithmetic.refusal(device):
                raise RuntimeError(refusal)
    for module in model.modules():
        if isinstance(module, Experts):
            is_own = isinstance(module.apply_experts, EightBitExperts)
            if not is_own and module.apply_experts is not apply_experts:
                raise RuntimeError(
                    "the experts are applied by another function than model.layers.moe.experts.apply_experts: "
                    "convert to 8-bit training before anything else replaces it"
                )
        elif _plain_class(module) is None and isinstance(module, tuple(_EIGHT_BIT_FORM)):
            raise RuntimeError(f"{type(module).__name__} has no 8-bit form: add one to {__name__}")


class LinearsIn(TorchFunctionMode):
    """While active, F.linear multiplies in 8 bits."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.arithmetic = arithmetic

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        return self._linear(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        return eight_bit_linear(input, weight, bias, self.arithmetic)


class _EightBit(nn.Module):
    """Runs a module's `forward` with its linear maps in 8 bits."""

    linears: (
        LinearsIn  # kept, not made again for each call: torch.compile traces modes that it can find again
    )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not is_grad_enabled():
            return super().forward(*args, **kwargs)
        with self.linears:
            return super().forward(*args, **kwargs)


class EightBitAttention(_EightBit, Attention):
    """Projections in 8 bits; attention itself is unchanged."""


class EightBitMLA(_EightBit, MLA):
    """Projections in 8 bits, down to the latents and up from them too."""


class EightBitSwiGLU(_EightBit, SwiGLU):
    """All three products in 8 bits."""


class EightBitMTPModule(MTPModule):
    """The projection of two inputs to one in 8 bits; its block's parts are converted separately."""

    linears: LinearsIn

    def join(self, x_BSD: Tensor, embedded_BSD: Tensor) -> Tensor:
        if not is_grad_enabled():
            return super().join(x_BSD, embedded_BSD)
        with self.linears:
            return super().join(x_BSD, embedded_BSD)


_EIGHT_BIT_FORM: dict[type[nn.Module], type[nn.Module]] = {
    Attention: EightBitAttention,
    MLA: EightBitMLA,
    SwiGLU: EightBitSwiGLU,
    MTPModule: EightBitMTPModule,
}


_PLAIN_FORM = {eight_bit: plain for plain, eight_bit in _EIGHT_BIT_FORM.items()}


def _plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of a module before its conversion; None for other kinds of modules."""
    kind = type(module)
    return kind if kind in _EIGHT_BIT_FORM else _PLAIN_FORM.get(kind)


def _convert(module: nn.Module, plain: type[nn.Module], arithmetic: Arithmetic | None) -> None:
    """Give a module its 8-bit or its plain class. Its state is unchanged: only `forward` differs."""
    if arithmetic is None:
        module.__class__ = plain
        module.__dict__.pop("linears", None)
    else:
        module.__class__ = _EIGHT_BIT_FORM[plain]
        module.linears = LinearsIn(arithmetic)  # type: ignore[assignment]  # a plain attribute, no Tensor or Module
