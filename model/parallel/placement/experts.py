"""Experts on two devices: hot ones on an accelerator, cold ones in the host's memory and computed there.

Rows of (token, choice) pairs are sent to their expert's device and returned weighted; with one device both sides are the
same and the result is that of plain `Experts`. `placement.split_experts` chooses the hot experts from a counted load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ConfigError
from model.layers.moe.layer import Experts


class _Side(nn.Module):
    """The experts of a layer on one device."""

    w_gate: nn.Parameter
    w_up: nn.Parameter
    w_down: nn.Parameter

    def __init__(self, experts: Experts, ids: Sequence[int], device: torch.device) -> None:
        super().__init__()
        index = torch.tensor(list(ids), dtype=torch.int64)
        for name in ("w_gate", "w_up", "w_down"):
            whole: Tensor = getattr(experts, name).detach()
            self.register_parameter(name, nn.Parameter(whole[index.to(whole.device)].to(device)))
        self.apply_experts, self.device = experts.apply_experts, device

    def forward(self, x_ND: Tensor, local_N: Tensor) -> Tensor:
        ones_N1 = torch.ones(len(local_N), 1, device=self.device)
        return self.apply_experts(
            x_ND.to(self.device),
            ones_N1,
            local_N[:, None].to(self.device),
            self.w_gate,
            self.w_up,
            self.w_down,
        )


class OffloadedExperts(nn.Module):
    """Replaces a layer's `Experts`: same call. Its parameters are copies, split over the two devices.

    Raises ConfigError where `hot` names an expert twice or an unknown one.
    """

    local_E: Tensor
    is_hot_E: Tensor

    def __init__(
        self,
        experts: Experts,
        hot: Sequence[int],
        accelerator: torch.device,
        host: torch.device | None = None,
    ) -> None:
        super().__init__()
        n_experts = experts.w_gate.shape[0]
        if len(set(hot)) != len(hot) or not all(0 <= expert < n_experts for expert in hot):
            raise ConfigError(f"hot experts must be different ids below {n_experts}, not {list(hot)}")
        cold = [expert for expert in range(n_experts) if expert not in set(hot)]
        self.hot = _Side(experts, hot, accelerator) if hot else None
        self.cold = _Side(experts, cold, host or torch.device("cpu")) if cold else None
        local_E = torch.empty(n_experts, dtype=torch.int64)
        local_E[torch.tensor(list(hot), dtype=torch.int64)] = torch.arange(len(hot))
        local_E[torch.tensor(cold, dtype=torch.int64)] = torch.arange(len(cold))
        is_hot_E = torch.zeros(n_experts, dtype=torch.bool)
        is_hot_E[torch.tensor(list(hot), dtype=torch.int64)] = True
        self.register_buffer("local_E", local_E, persistent=False)
        self.register_buffer("is_hot_E", is_hot_E, persistent=False)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """Sum over a token's chosen experts of weight * expert(x): [T, D] -> [T, D] on x's device and dtype."""
        n_choices = experts_TK.shape[1]
        expert_N = experts_TK.flatten()
        is_hot_N = self.is_hot_E.to(expert_N.device)[expert_N]
        local_N = self.local_E.to(expert_N.device)[expert_N]
        y_ND = x_TD.new_zeros(expert_N.numel(), x_TD.shape[1])
        for side, chosen_N in ((self.hot, is_hot_N), (self.cold, ~is_hot_N)):
            if side is None:
                continue
            rows_N = chosen_N.nonzero().squeeze(-1)
            computed_ND = side(x_TD[rows_N // n_choices], local_N[rows_N])
            y_ND = y_ND.index_copy(0, rows_N, computed_ND.to(x_TD.device))
        y_TKD = y_ND.view(*experts_TK.shape, x_TD.shape[1])
        return (y_TKD * weights_TK[..., None]).sum(1).to(x_TD.dtype)
