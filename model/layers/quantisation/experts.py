"""Sum of the routed experts with 8-bit products; replaces `experts.apply_experts`.

Rows of (token, choice) pairs are sorted by expert; each expert's block has its own scales, so that an outlier in one
expert does not affect the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers.moe.experts import apply_experts
from model.layers.quantisation.linear import Arithmetic, eight_bit_linear


@dataclass(frozen=True)
class EightBitExperts:
    """Applies experts in 8 bits where gradients are recorded, else as the plain function does."""

    arithmetic: Arithmetic

    @torch.compiler.disable  # blocks have other numbers of rows in every step: each would be compiled again
    def __call__(
        self,
        x_TD: Tensor,
        weights_TK: Tensor,
        experts_TK: Tensor,
        w_gate_EFD: Tensor,
        w_up_EFD: Tensor,
        w_down_EDF: Tensor,
    ) -> Tensor:
        """Sum over a token's chosen experts of weight * SwiGLU_e(x). Returns [T, D] in x's dtype, summed in fp32."""
        if not torch.is_grad_enabled() or experts_TK.numel() == 0:
            return apply_experts(x_TD, weights_TK, experts_TK, w_gate_EFD, w_up_EFD, w_down_EDF)
        n_choices, n_experts = experts_TK.shape[1], w_gate_EFD.shape[0]
        expert_N, order_N = experts_TK.flatten().sort(stable=True)
        rows = torch.bincount(expert_N, minlength=n_experts).tolist()
        blocks = torch.split(x_TD[order_N // n_choices], rows)
        # unbind, not w[e]: indexing one expert makes its backward write a gradient as large as all of them
        weights = zip(w_gate_EFD.unbind(), w_up_EFD.unbind(), w_down_EDF.unbind(), strict=True)
        y_ND = torch.cat(
            [
                self._expert(x_nD, *weights_e)
                for x_nD, weights_e in zip(blocks, weights, strict=True)
                if x_nD.shape[0]
            ]
        )
        unsort_N = torch.empty_like(order_N)
        unsort_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
        y_TKD = y_ND[unsort_N].view(*experts_TK.shape, -1)
        return (y_TKD * weights_TK[..., None]).sum(1).to(x_TD.dtype)

    def _expert(self, x_nD: Tensor, w_gate_FD: Tensor, w_up_FD: Tensor, w_down_DF: Tensor) -> Tensor:
        gate_nF = eight_bit_linear(x_nD, w_gate_FD, None, self.arithmetic)
        up_nF = eight_bit_linear(x_nD, w_up_FD, None, self.arithmetic)
        return eight_bit_linear(F.silu(gate_nF) * up_nF, w_down_DF, None, self.arithmetic)
