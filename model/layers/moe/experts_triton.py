"""Sum of the routed experts on CUDA by Triton kernels, forward and backward (`experts_triton_kernels.py`).

The tokens are gathered inside the first product, which also applies the activation; the gradients of rows and of
stacked weights are grouped products too, with torch's operations between them. The host never waits for the device.
Callers must check `fits` first. Importable without triton and without CUDA; it has run on no CUDA
device yet, only in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from model.layers.moe import experts_reference
from model.layers.moe.load import expert_load
from model.layers.watched import PLAIN, is_watched

BLOCK_M, BLOCK_N, BLOCK_K = 64, 64, 32

_DTYPES = (torch.float32, torch.bfloat16)


def fits(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, *stacks: Tensor) -> bool:
    """Whether this `apply_experts` supports the tensors: on CUDA, of one format, with triton installed."""
    if not x_TD.is_cuda or x_TD.dtype not in _DTYPES or x_TD.numel() == 0 or experts_TK.numel() == 0:
        return False
    tensors = (x_TD, weights_TK, experts_TK, *stacks)
    if any(type(t) not in PLAIN or t.device != x_TD.device for t in tensors) or is_watched():
        return False
    if any(t.dtype is not x_TD.dtype or not t.is_contiguous() for t in stacks):
        return False
    if torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") is not x_TD.dtype:
        return False
    return experts_TK.dtype is torch.int64 and _has_triton()


def apply_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """As `model.layers.moe.experts.apply_experts`, for tensors that `fits` accepts; expert ids are not checked."""
    arguments = (x_TD.contiguous(), weights_TK.float().contiguous(), experts_TK)
    stacks = (w_gate_EFD, w_up_EFD, w_down_EDF)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*arguments[:2], *stacks)):
        apply: Callable[..., Tensor] = _TritonExperts.apply
        return apply(*arguments, *stacks)
    return _forward(arguments, stacks, Groups.of(experts_TK, len(w_gate_EFD)), keep=False)[0]


@dataclass(frozen=True)
class Groups:
    """Pairs sorted by expert, and their tiles of BLOCK_M rows. N pairs, L tiles at most."""

    order_N: Tensor  # the sorted pairs' places in [T, K]
    token_N: Tensor
    starts_E: Tensor  # [E + 1]
    expert_L: Tensor
    first_L: Tensor  # rows first .. last of the sorted pairs; an unused tile has none
    last_L: Tensor

    @classmethod
    def of(cls, experts_TK: Tensor, n_experts: int) -> Groups:
        expert_N, order_N = experts_TK.flatten().sort(stable=True)
        rows_E = expert_load(expert_N, n_experts)
        starts_E = torch.cat([rows_E.new_zeros(1), rows_E.cumsum(0)])
        tile_ends_E = ((rows_E + BLOCK_M - 1) // BLOCK_M).cumsum(0)
        n_pairs = experts_TK.numel()
        most = n_pairs // BLOCK_M + min(n_experts, n_pairs)
        tile_L = torch.arange(most, device=experts_TK.device)
        expert_L = torch.searchsorted(tile_ends_E, tile_L, right=True)
        is_used_L = expert_L < n_experts
        expert_L = expert_L.clamp(max=n_experts - 1)
        begin_E = torch.cat([tile_ends_E.new_zeros(1), tile_ends_E[:-1]])
        first_L = starts_E[expert_L] + (tile_L - begin_E[expert_L]) * BLOCK_M
        last_L = torch.where(is_used_L, starts_E[expert_L + 1], first_L)
        return cls(order_N, order_N // experts_TK.shape[1], starts_E, expert_L, first_L, last_L)

    @property
    def tiles(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.expert_L, self.first_L, self.last_L

    def combined(self, rows_ND: Tensor, shape_TK: torch.Size) -> Tensor:
        """The sum of each token's rows, [T, D]."""
        unsorted_ND = torch.empty_like(rows_ND)
        unsorted_ND[self.order_N] = rows_ND
        return unsorted_ND.view(*shape_TK, -1).sum(1)


def _forward(
    arguments: tuple[Tensor, ...], stacks: tuple[Tensor, ...], groups: Groups, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and with `keep` the activation's inputs, [N, F] each."""
    from model.layers.moe import experts_triton_kernels as kernels

    x_TD, weights_TK, experts_TK = arguments
    w_gate_EFD, w_up_EFD, w_down_EDF = stacks
    _, d_expert, d_model = w_gate_EFD.shape
    hidden_NF = x_TD.new_empty(experts_TK.numel(), d_expert)
    gate_NF, up_NF = (torch.empty_like(hidden_NF) for _ in range(2)) if keep else (hidden_NF, hidden_NF)
    kernels.gated_rows[len(groups.expert_L), _blocks(d_expert, BLOCK_N)](
        *(x_TD, w_gate_EFD, w_up_EFD, hidden_NF, gate_NF, up_NF, groups.token_N, *groups.tiles),
        *(d_expert, d_model, keep, BLOCK_M, BLOCK_N, BLOCK_K),
    )
    y_ND = _rows(hidden_NF, w_down_EDF.mT, groups) * weights_TK.flatten()[groups.order_N, None]
    return groups.combined(y_ND, experts_TK.shape).to(x_TD.dtype), gate_NF, up_NF


def _rows(a_NK: Tensor, b_EKM: Tensor, groups: Groups, *, gather: bool = False) -> Tensor:
    """Multiply each sorted row with its expert's matrix, fp32; with `gather` the rows are those of the pairs' tokens."""
    from model.layers.moe import experts_triton_kernels as kernels

    width = b_EKM.shape[2]
    c_NM = torch.empty(len(groups.order_N), width, dtype=torch.float32, device=a_NK.device)
    kernels.rows_product[len(groups.expert_L), _blocks(width, BLOCK_N)](
        *(a_NK, b_EKM, c_NM, groups.token_N, *groups.tiles, width, a_NK.shape[1], *b_EKM.stride()),
        *(gather, BLOCK_M, BLOCK_N, BLOCK_K),
    )
    return c_NM


def _weights(a_NM: Tensor, b_NK: Tensor, groups: Groups) -> Tensor:
    """The gradient [E, M, K] of each expert's matrix: a^T b over its rows."""
    from model.layers.moe import experts_triton_kernels as kernels

    height, width, n_experts = a_NM.shape[1], b_NK.shape[1], len(groups.starts_E) - 1
    c_EMK = a_NM.new_empty(n_experts, height, width)
    kernels.weights_product[n_experts, _blocks(height, BLOCK_M), _blocks(width, BLOCK_N)](
        *(a_NM, b_NK, c_EMK, groups.starts_E, height, width, BLOCK_M, BLOCK_N, BLOCK_K)
    )
    return c_EMK


class _TritonExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        groups = Groups.of(tensors[2], len(tensors[3]))
        y_TD, gate_NF, up_NF = _forward(tensors[:3], tensors[3:], groups, keep=True)
        ctx.save_for_backward(*tensors, gate_NF, up_NF)
        return y_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, gate_NF, up_NF = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            return experts_reference.gradients(tuple(tensors), grads[0], ctx.needs_input_grad)
        x_TD, weights_TK, experts_TK, w_gate_EFD, w_up_EFD, w_down_EDF = tensors
        groups = Groups.of(experts_TK, len(w_gate_EFD))
        grad_y_TD, dtype = grads[0].contiguous(), x_TD.dtype
        weight_N1 = weights_TK.flatten()[groups.order_N, None]
        gate_NF, up_NF = gate_NF.float(), up_NF.float()
        sigmoid_NF = gate_NF.sigmoid()
        active_NF = gate_NF * sigmoid_NF
        hidden_NF = active_NF * up_NF
        grad_hidden_NF = _rows(grad_y_TD, w_down_EDF, groups, gather=True)
        grad_weights_TK = torch.empty_like(weights_TK)
        grad_weights_TK.view(-1)[groups.order_N] = (grad_hidden_NF * hidden_NF).sum(-1)
        grad_hidden_NF = grad_hidden_NF * weight_N1
        slope_NF = sigmoid_NF + active_NF * (1 - sigmoid_NF)
        grad_gate_NF = (grad_hidden_NF * up_NF * slope_NF).to(dtype)
        grad_up_NF = (grad_hidden_NF * active_NF).to(dtype)
        grad_x_ND = _rows(grad_gate_NF, w_gate_EFD, groups) + _rows(grad_up_NF, w_up_EFD, groups)
        x_ND = x_TD[groups.token_N]
        weighted_ND = (grad_y_TD[groups.token_N] * weight_N1).to(dtype)
        return (
            groups.combined(grad_x_ND, experts_TK.shape).to(dtype),
            grad_weights_TK,
            None,
            _weights(grad_gate_NF, x_ND, groups),
            _weights(grad_up_NF, x_ND, groups),
            _weights(weighted_ND, hidden_NF.to(dtype), groups),
        )


def _blocks(size: int, block: int) -> int:
    return (size + block - 1) // block


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
