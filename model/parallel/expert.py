"""Expert parallelism: each rank of the `ep` axis holds E / ep experts, and rows of tokens travel to them and back.

Rows of (token, choice) pairs are sorted by expert, sent to the rank that holds the expert, computed there by the same
function as in one process, and sent back to be weighted and added up (GShard, arXiv:2006.16668; dropless with uneven
all-to-all as in MegaBlocks, arXiv:2211.15841). Two exchanges forward, two backward.

The ranks of the `tp` axis have the same tokens and 1 / tp of each expert's width. Each sends the rows of its share of
the tokens only, so that a row crosses the `ep` axis once; where the experts lie, the tp ranks gather what came to them,
and sum and scatter their parts before rows go back. Knows nothing of routers.

Shape suffixes: those of model/layers; R ranks of ep, P of tp, L experts of one rank (E = R * L), M rows of all P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe import Experts
from model.parallel.collectives import (
    Group,
    even_sizes,
    exchange_counts,
    exchange_rows,
    gather_counts,
    gather_from,
    gather_to,
    reduce_scatter_from,
    split_to,
)
from model.parallel.share import local_experts


class ParallelExperts(Experts):
    """Takes the place of a layer's `Experts`: same call, same parameter names, stacks of L experts instead of E.

    `config` is that of one tp rank, and so is the width of its experts. All ranks of `tp_group` must be called with the
    same arguments; each gets the whole output, and the whole gradients of what it was given.
    """

    def __init__(self, config: MoEConfig, ep: int, group: Group, tp_group: Group = None) -> None:
        super().__init__(local_experts(config, ep))
        self.n_ranks, self.n_local = ep, config.n_experts // ep
        self.group, self.tp_group = group, tp_group

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """[T, D] -> [T, D]. All ranks of both axes must call it together; T may differ over ep, and be 0."""
        sizes = even_sizes(x_TD.shape[0], self.tp_group)
        share = (split_to(given, sizes, self.tp_group) for given in (x_TD, weights_TK, experts_TK))
        return gather_from(self._of_share(*share), sizes, self.tp_group)

    def _of_share(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """As `forward`, of the tokens that this tp rank alone sends."""
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
        counts_PRL = gather_counts(received_RL, self.tp_group)
        sizes = counts_PRL.sum((1, 2)).tolist()
        x_MD = gather_to(x_ND, sizes, self.tp_group)
        expert_PRL = torch.arange(self.n_local, device=x_ND.device).expand_as(counts_PRL)
        expert_M1 = expert_PRL.flatten().repeat_interleave(counts_PRL.flatten())[:, None]
        y_MD = super().forward(x_MD, torch.ones(expert_M1.shape, device=x_ND.device), expert_M1)
        return reduce_scatter_from(y_MD, sizes, self.tp_group)
