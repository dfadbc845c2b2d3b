"""Chooses each token's experts and their weights, in fp32. Knows nothing of what an expert computes.

Load balance without an auxiliary loss: a bias per expert is added to the scores for the choice only, never to
the weights, and moves by a fixed step against the load (Wang et al. 2024, arXiv:2408.15664; used in DeepSeek-V3,
arXiv:2412.19437). The training loop calls `balance` once per optimiser step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MoEConfig


class Routing(NamedTuple):
    """For each token its chosen experts, best first, and the weights of their outputs."""

    weights_TK: Tensor  # fp32
    experts_TK: Tensor  # int64, all different within a row


class Router(nn.Module):
    """Parameter `weight` [E, D]; buffer `bias` [E] (fp32) only where the configuration balances by bias."""

    bias: Tensor | None

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_experts, config.d_model))
        self.register_buffer("bias", torch.zeros(config.n_experts) if config.bias_balancing else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.config.d_model**-0.5)

    def forward(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD.float(), self.weight.float())
        scores_TE = logits_TE.softmax(-1) if self.config.gate == "softmax" else logits_TE.sigmoid()
        if self.bias is None:
            weights_TK, experts_TK = scores_TE.topk(self.config.top_k, dim=-1)
        else:
            experts_TK = (scores_TE.detach() + self.bias.float()).topk(self.config.top_k, dim=-1).indices
            weights_TK = scores_TE.gather(-1, experts_TK)
        if self.config.normalise_top_k:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return Routing(weights_TK * self.config.routed_scale, experts_TK)

    @torch.no_grad()
    def balance(self, load_E: Tensor, rate: float = 1e-3) -> None:
        """Moves the bias by `rate` towards experts whose load [E] (token counts) is below the mean.

        Raises RuntimeError where the configuration does not balance by bias.
        """
        if self.bias is None:
            raise RuntimeError("this router has no balancing bias: set MoEConfig.bias_balancing")
        load_E = load_E.float()
        self.bias += rate * torch.sign(load_E.mean() - load_E).to(self.bias.dtype)


def expert_load(experts_TK: Tensor, n_experts: int) -> Tensor:
    """How many (token, choice) pairs each expert got, int64 [E]."""
    return torch.bincount(experts_TK.flatten(), minlength=n_experts)
