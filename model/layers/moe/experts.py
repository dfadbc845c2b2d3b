"""The routed experts' sum, fast: each token is computed by its chosen experts only.

Kernels of our own (`experts_fused.py`, on CUDA `experts_triton.py`) compute it where they fit. Elsewhere rows of
(token, choice) pairs are sorted by expert, so that each expert multiplies one contiguous block. All equal
`experts_reference.apply_experts` forward and backward. Routing and shared experts are computed elsewhere.

Of torch's forms, measured on one AVX512 core, the grouped matmul beats a loop of matmuls over experts by 1.3-1.5x
where gradients are needed and by a few per cent in bf16; in fp32 inference with long blocks the loop is 10 % ahead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers.moe import experts_fused, experts_triton
from model.layers.moe.load import expert_load

LONG_BLOCK = 32  # rows per expert from which on the fp32 loop is ahead in inference


def apply_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """Sum over a token's chosen experts of weight * SwiGLU_e(x). Returns [T, D] in x's dtype, summed in fp32."""
    tensors = (x_TD, weights_TK, experts_TK, w_gate_EFD, w_up_EFD, w_down_EDF)
    for kernels in (experts_fused, experts_triton):
        if kernels.fits(*tensors):
            return kernels.apply_experts(*tensors)  # type: ignore[no-any-return]  # a module's
    n_choices, n_experts = experts_TK.shape[1], w_gate_EFD.shape[0]
    expert_N, order_N = experts_TK.flatten().sort(stable=True)
    rows_E = expert_load(expert_N, n_experts)
    x_ND = x_TD[order_N // n_choices]
    compute = _grouped if _grouped_is_better(x_ND, w_gate_EFD) else _one_by_one
    y_ND = compute(x_ND, rows_E, w_gate_EFD, w_up_EFD, w_down_EDF)
    unsort_N = torch.empty_like(order_N)
    unsort_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
    y_TKD = y_ND[unsort_N].view(*experts_TK.shape, x_TD.shape[1])
    return (y_TKD * weights_TK[..., None]).sum(1).to(x_TD.dtype)


def _grouped(
    x_ND: Tensor, rows_E: Tensor, w_gate_EFD: Tensor, w_up_EFD: Tensor, w_down_EDF: Tensor
) -> Tensor:
    ends_E = rows_E.cumsum(0).to(torch.int32)
    gate_NF = F.grouped_mm(x_ND, w_gate_EFD.mT, offs=ends_E)
    up_NF = F.grouped_mm(x_ND, w_up_EFD.mT, offs=ends_E)
    return F.grouped_mm(F.silu(gate_NF) * up_NF, w_down_EDF.mT, offs=ends_E)


def _one_by_one(
    x_ND: Tensor, rows_E: Tensor, w_gate_EFD: Tensor, w_up_EFD: Tensor, w_down_EDF: Tensor
) -> Tensor:
    # unbind, not w[e]: indexing one expert makes its backward write a gradient as large as all of them
    blocks = torch.split(x_ND, rows_E.tolist())
    weights = zip(w_gate_EFD.unbind(), w_up_EFD.unbind(), w_down_EDF.unbind(), strict=True)
    outputs = [
        F.linear(F.silu(F.linear(block, w_gate)) * F.linear(block, w_up), w_down)
        for block, (w_gate, w_up, w_down) in zip(blocks, weights, strict=True)
        if block.shape[0]
    ]
    return torch.cat(outputs) if outputs else x_ND


def _grouped_is_better(x_ND: Tensor, w_gate_EFD: Tensor) -> bool:
    n_experts, d_expert, d_model = w_gate_EFD.shape
    supported = (torch.bfloat16,) if x_ND.is_cuda else (torch.bfloat16, torch.float32)
    if not hasattr(F, "grouped_mm") or x_ND.dtype not in supported:
        return False
    if any(
        width * x_ND.element_size() % 16 for width in (d_model, d_expert)
    ):  # its kernels need aligned rows
        return False
    if x_ND.dtype is torch.float32 and torch.compiler.is_compiling():  # its shape-only form refuses fp32
        return False
    needs_grad = torch.is_grad_enabled() and (x_ND.requires_grad or w_gate_EFD.requires_grad)
    return needs_grad or x_ND.dtype is torch.bfloat16 or x_ND.shape[0] < LONG_BLOCK * n_experts
