"""Expert parallelism: each rank of the `ep` axis holds E / ep experts, and rows of tokens travel to them and back.

Rows of (token, choice) pairs are sorted by expert, sent to the rank that holds the expert, computed there by the same
function as in one process, and sent back to be weighted and added up (GShard, arXiv:2006.16668; dropless with uneven
all-to-all as in MegaBlocks, arXiv:2211.15841). Two exchanges forward, two backward. Knows nothing of routers.

Shape suffixes: those of model/layers; R ranks of the axis, L experts of one rank (E = R * L).
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe import Experts
from model.parallel.collectives import Group, exchange_counts, exchange_rows
from model.parallel.share import local_experts


class ParallelExperts(Experts):
    """Takes the place of a layer's `Experts`: same call, same parameter names, stacks of L experts instead of E."""

    def __init__(self, config: MoEConfig, ep: int, group: Group) -> None:
        super().__init__(local_experts(config, ep))
        self.n_ranks, self.n_local, self.group = ep, config.n_experts // ep, group

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """[T, D] -> [T, D]. All ranks of the axis must call it together; T may differ between them, and be 0."""
        n_choices = experts_TK.shape[1]
        expert_N, order_N = experts_TK.flatten().sort(stable=True)
        sent_RL = torch.bincount(expert_N, minlength=self.n_ranks * self.n_local).view(self.n_ranks, -1)
        received_RL = exchange_counts(sent_RL, self.group)
        sent, received = sent_RL.sum(1).tolist(), received_RL.sum(1).tolist()
        x_ND = exchange_rows(x_TD[order_N // n_choices], sent, received, self.group)
        y_ND = exchange_rows(self._compute(x_ND, received_RL), received, sent, self.group)
        unsort_N = torch.empty_like(order_N)
        unsort_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
        y_TKD = y_ND[unsort_N].view(*experts_TK.shape, x_TD.shape[1])
        return (y_TKD * weights_TK[..., None]).sum(1).to(x_TD.dtype)

    def _compute(self, x_ND: Tensor, received_RL: Tensor) -> Tensor:
        """This rank's experts on the rows that came, which lie by sending rank and within it by expert."""
        expert_RL = torch.arange(self.n_local, device=x_ND.device).expand(self.n_ranks, -1)
        expert_N1 = expert_RL.flatten().repeat_interleave(received_RL.flatten())[:, None]
        return super().forward(x_ND, torch.ones(expert_N1.shape, device=x_ND.device), expert_N1)
