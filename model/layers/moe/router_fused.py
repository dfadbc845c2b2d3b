"""Router's choice of experts and weights on CPU by a compiled kernel (`model/csrc/router_fused.cpp`).

torch sorts each token's scores partially, as pairs of score and index, and its gradients include all experts' zeros.
Here a row of scores stays in the L1 cache from its exponentials to its weights, and a row's result is the same in any
batch.

Callers must check `fits` first, as the router does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model import native
from model.config import MoEConfig
from model.layers.moe import router_reference
from model.layers.watched import PLAIN, is_watched

_POINTER = ctypes.c_void_p


class Routed(NamedTuple):
    """Each token's experts, best first, the weights of their outputs, and all experts' scores."""

    weights_TK: Tensor  # fp32
    experts_TK: Tensor  # int64, all different within a row
    scores_TE: Tensor  # fp32


class _Call(ctypes.Structure):
    """As `router::Call` in `model/csrc/router_fused.cpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "experts", "top_k", "threads", "is_sigmoid", "normalises")
        ),
        *((name, ctypes.c_double) for name in ("scale", "guard")),
        *((name, _POINTER) for name in ("logits", "bias", "scores", "weights", "chosen")),
        *((name, _POINTER) for name in ("grad_weights", "grad_scores", "grad_logits")),
    ]


def fits(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor | None = None) -> bool:
    """Whether `route` supports the tensors: fp32 on CPU, a choice among all experts, no watched operations."""
    for tensor in (logits_TE,) if bias_E is None else (logits_TE, bias_E):
        if tensor.dtype is not torch.float32 or tensor.device.type != "cpu" or type(tensor) not in PLAIN:
            return False
    if config.top_groups < config.n_groups or logits_TE.numel() == 0:
        return False
    return not is_watched() and _has_kernels()


def route(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor | None = None) -> Routed:
    """Choose the top K by score plus `bias_E` (fp32), if given; the bias does not enter the weights.

    For logits that `fits` accepts. Of equal scores the lower expert id wins. Second derivatives are torch's.
    Raises MemoryError.
    """
    apply: Callable[..., Iterable[Tensor]] = _Route.apply
    return Routed(*apply(logits_TE.contiguous(), bias_E, config))


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TE: Tensor, bias_E: Tensor | None, config: MoEConfig
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen_shape = (len(logits_TE), config.top_k)
        weights_TK, experts_TK = (
            logits_TE.new_empty(chosen_shape),
            logits_TE.new_empty(chosen_shape, dtype=torch.int64),
        )
        scores_TE = torch.empty_like(logits_TE)
        arrays = {"logits": logits_TE, "weights": weights_TK, "chosen": experts_TK, "scores": scores_TE}
        _run("forward", config, scores_TE, bias=None if bias_E is None else bias_E.contiguous(), **arrays)
        ctx.save_for_backward(logits_TE, experts_TK, scores_TE)
        ctx.config = config
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(experts_TK)
        return weights_TK, experts_TK, scores_TE

    @staticmethod
    def backward(
        ctx: Any, grad_weights_TK: Tensor | None, _: None, grad_scores_TE: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        logits_TE, experts_TK, scores_TE = ctx.saved_tensors
        grads = (grad_weights_TK, grad_scores_TE)
        if torch.is_grad_enabled():  # for second derivatives
            return _gradient(ctx.config, logits_TE, experts_TK, *grads), None, None
        if grads == (None, None):
            return None, None, None
        grad_logits_TE = torch.empty_like(logits_TE)
        weights, scores = (None if grad is None else grad.contiguous() for grad in grads)
        arrays = {"grad_weights": weights, "grad_scores": scores, "grad_logits": grad_logits_TE}
        _run("backward", ctx.config, scores_TE, scores=scores_TE, chosen=experts_TK, **arrays)
        return grad_logits_TE, None, None


def _gradient(
    config: MoEConfig,
    logits_TE: Tensor,
    experts_TK: Tensor,
    grad_weights_TK: Tensor | None,
    grad_scores_TE: Tensor | None,
) -> Tensor:
    """Gradient of the logits, by differentiable operations."""
    scores_TE = router_reference.scores(logits_TE, config)
    weights_TK = router_reference.weights(scores_TE.gather(-1, experts_TK), config)
    pairs = ((weights_TK, grad_weights_TK), (scores_TE, grad_scores_TE))
    outputs, grads = zip(*((output, grad) for output, grad in pairs if grad is not None), strict=True)
    return torch.autograd.grad(outputs, logits_TE, grads, create_graph=True)[0]


def _run(direction: str, config: MoEConfig, like_TE: Tensor, **arrays: Tensor | None) -> None:
    """Call the kernel on [T, E] as `like_TE`; all tensors must be contiguous and outlive the call."""
    rows, experts = like_TE.shape
    call = _Call(
        *(rows, experts, config.top_k, torch.get_num_threads()),
        *(
            config.gate == "sigmoid",
            config.normalise_top_k,
            config.routed_scale,
            router_reference.guard(config),
        ),
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in arrays.items()},
    )
    if getattr(native.library(), f"router_fused_{direction}")(ctypes.byref(call)):
        raise MemoryError(f"no memory to route {rows} tokens: pass fewer at a time")


@cache
def _has_kernels() -> bool:
    """Whether there are compiled kernels, of this tree."""
    return hasattr(native.library(), "router_fused_backward")
