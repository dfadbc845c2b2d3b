"""Expert parallelism: each rank of the `ep` axis holds E / ep experts, and tokens are sent to them and back.

A token is sent once to each rank that holds some of its chosen experts, with its choices and their weights; there they
are computed by the same function as in one process and summed, and the sums of all ranks are added on the token's rank
(GShard, arXiv:2006.16668; dropless with uneven all-to-all as in MegaBlocks, arXiv:2211.15841).

The ranks of the `tp` axis have the same tokens. Each sends its share of them only, so that nothing crosses the `ep`
axis twice, and they gather the results, unless the caller sums their outputs anyway. If they have 1 / tp of each
expert's width they gather the received rows, and reduce-scatter their parts before rows are sent back. On a folded mesh
(arXiv:2504.14960) each rank has whole experts, and is a rank of `ep` itself.

Shape suffixes: those of model/layers; R ranks of ep, N rows of one rank (its own or sent to it), M rows of all ranks that
have parts of its experts, P pairs of a row and one of its experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe.layer import Experts
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
from model.parallel.mesh.share import local_experts
from model.parallel.rows import add_rows, take_rows


class ParallelExperts(Experts):
    """Replaces a layer's `Experts`: same call, same parameter names, stacks of E / ep experts instead of E.

    `config` and the experts' width are those of one tp rank. All ranks of `tp_group` must be called with the same
    arguments; each gets the whole output and the whole gradients of its inputs. With `gives_share` output and gradients
    are those of its share of the tokens, and zero for all others: the caller sums over `tp_group`.
    `is_folded` says that its ranks are ranks of `group` too, with whole experts.
    """

    def __init__(
        self,
        config: MoEConfig,
        ep: int,
        group: Group,
        tp_group: Group = None,
        *,
        is_folded: bool = False,
        gives_share: bool = False,
    ) -> None:
        super().__init__(local_experts(config, ep))
        self.n_ranks, self.n_local, self.n_choices = ep, config.n_experts // ep, config.top_k
        self.group, self.tp_group, self.gives_share = group, tp_group, gives_share
        self.width_group = None if is_folded else tp_group  # ranks with parts of the same experts

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """[T, D] -> [T, D], of at most `top_k` choices. All ranks of both axes must call it together.

        T, K and whether weights take gradients may differ over ep, T may be 0.
        """
        sizes, given = even_sizes(x_TD.shape[0], self.tp_group), (x_TD, weights_TK, experts_TK)
        if self.gives_share and self.tp_group is not None:
            return self._among_zeros(given, sizes, self.tp_group.rank())
        share = (split_to(tensor, sizes, self.tp_group) for tensor in given)
        return gather_from(self._of_share(*share), sizes, self.tp_group)

    def _among_zeros(self, given: tuple[Tensor, ...], sizes: list[int], place: int) -> Tensor:
        """The output with this tp rank's share of the tokens, and zeros for the others."""
        before, behind = sum(sizes[:place]), sum(sizes[place + 1 :])
        share = (tensor.narrow(0, before, sizes[place]) for tensor in given)
        return F.pad(self._of_share(*share), (0, 0, before, behind))

    def _of_share(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """As `forward`, for the tokens that this tp rank sends."""
        weights_TK, experts_TK = self._in_one_form(weights_TK, experts_TK)
        goes_RT = experts_TK.new_zeros(self.n_ranks + 1, x_TD.shape[0], dtype=torch.bool)
        goes_RT = goes_RT.scatter_(0, (experts_TK // self.n_local).T, value=True)[:-1]
        sent_R = goes_RT.sum(1)
        received_R = exchange_counts(sent_R, self.group)
        sent, received = sent_R.tolist(), received_R.tolist()
        tokens = torch.split(goes_RT.nonzero()[:, 1], sent)
        rows = (
            exchange_rows(take_rows(given, tokens), sent, received, self.group)
            for given in (x_TD, weights_TK, experts_TK)
        )
        y_ND = exchange_rows(self._received(*rows), received, sent, self.group)
        return add_rows(y_ND, tokens, x_TD.shape[0], x_TD.dtype)

    def _in_one_form(self, weights_TK: Tensor, experts_TK: Tensor) -> tuple[Tensor, Tensor]:
        """Pad choices to `top_k` on every rank, with an expert that no rank has, and weights that take gradients.

        With a capacity the layer passes one choice per row, with weights of one.
        """
        missing = (0, self.n_choices - experts_TK.shape[1])
        if torch.is_grad_enabled() and not weights_TK.requires_grad:
            weights_TK = weights_TK.detach().requires_grad_()
        no_expert = self.n_ranks * self.n_local
        return F.pad(weights_TK, missing), F.pad(experts_TK, missing, value=no_expert)

    def _received(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        """Sums of the received rows over their experts on this rank."""
        n_received = gather_counts(torch.tensor(x_ND.shape[0], device=x_ND.device), self.width_group)
        sizes = n_received.tolist()
        gathered = (gather_to(given, sizes, self.width_group) for given in (x_ND, weights_NK, experts_NK))
        return reduce_scatter_from(self._compute(*gathered), sizes, self.width_group)

    def _compute(self, x_MD: Tensor, weights_MK: Tensor, experts_MK: Tensor) -> Tensor:
        """This rank's part of those sums, over its width of its experts."""
        first = 0 if self.group is None else self.group.rank() * self.n_local
        local_MK = experts_MK - first
        is_here_KM = ((local_MK >= 0) & (local_MK < self.n_local)).T
        choice_P, row_P = is_here_KM.nonzero(as_tuple=True)
        rows = torch.split(row_P, is_here_KM.sum(1).tolist())
        weight_P1 = weights_MK[row_P, choice_P, None]
        y_PD = super().forward(
            take_rows(x_MD, rows), torch.ones_like(weight_P1), local_MK[row_P, choice_P, None]
        )
        return add_rows(y_PD * weight_P1, rows, x_MD.shape[0], x_MD.dtype)  # in fp32, as in one process
