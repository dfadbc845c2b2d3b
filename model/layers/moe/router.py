"""Router: choose each token's experts and their weights, in fp32.

Group-limited choice (DeepSeek-V2, arXiv:2405.04434, section 2.2.2; DeepSeek-V3, arXiv:2412.19437, section 2.1.2): the
experts are in equal groups, neighbours together, and a token's experts come from its best groups only.

Load balance without an auxiliary loss: a bias per expert is added to the scores for the choice only, never to
the weights, and moves by a fixed step against the load (Wang et al. 2024, arXiv:2408.15664; used in DeepSeek-V3).
`model/layers/moe/balance.py` moves the biases of a model once per optimiser step.

Shape suffix of this file: M groups of experts, L experts of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MoEConfig
from model.layers.moe import router_fused, router_reference


class Routing(NamedTuple):
    """Each token's chosen experts, best first, and the weights of their outputs."""

    weights_TK: Tensor  # fp32
    experts_TK: Tensor  # int64, all different within a row


class Scores(NamedTuple):
    """Scores of a routing, which the auxiliary losses are functions of."""

    logits_TE: Tensor  # fp32
    scores_TE: Tensor  # fp32: softmax or sigmoid of the logits, without the balancing bias


class Router(nn.Module):
    """Parameter `weight` [E, D]; buffer `bias` [E] only where the configuration balances by bias.

    Everything is computed in fp32, under autocast too. The bias stays fp32 when the module is cast to a narrower format:
    its steps are finer than bf16. (In a double module everything is double.)
    """

    bias: Tensor | None

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_experts, config.d_model))
        self.register_buffer("bias", torch.zeros(config.n_experts) if config.bias_balancing else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.config.d_model**-0.5)

    def forward(self, x_TD: Tensor, *, return_scores: bool = False) -> Routing | tuple[Routing, Scores]:
        """[T, D] -> `Routing`, with `return_scores` also its `Scores`."""
        config = self.config
        logits_TE = self._logits(x_TD)
        if router_fused.fits(logits_TE, config, self.bias):
            weights_TK, experts_TK, scores_TE = router_fused.route(logits_TE, config, self.bias)
        else:
            scores_TE = router_reference.scores(logits_TE, config)
            chosen_by_TE = scores_TE.detach()
            experts_TK = self.choose(chosen_by_TE if self.bias is None else chosen_by_TE + wide(self.bias))
            weights_TK = router_reference.weights(scores_TE.gather(-1, experts_TK), config)
        routing = Routing(weights_TK, experts_TK)
        return (routing, Scores(logits_TE, scores_TE)) if return_scores else routing

    def choose(self, chosen_by_TE: Tensor) -> Tensor:
        """The experts [T, K] with the best scores, best first; from the best groups only, if there are groups."""
        config = self.config
        if config.top_groups < config.n_groups:
            chosen_by_TE = _within_best_groups(chosen_by_TE, config)
        return chosen_by_TE.topk(config.top_k, dim=-1).indices

    @torch.no_grad()
    def balance(self, load_E: Tensor, rate: float = 1e-3) -> None:
        """Move the bias by `rate` towards experts whose load [E] (token counts) is below the mean.

        Raises RuntimeError where the configuration does not balance by bias.
        """
        if self.bias is None:
            raise RuntimeError("this router has no balancing bias: set MoEConfig.bias_balancing")
        load_E = load_E.float()
        self.bias += rate * torch.sign(load_E.mean() - load_E).to(self.bias.dtype)

    def _logits(self, x_TD: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x_TD.device.type):
            return F.linear(wide(x_TD), wide(self.weight))
        with torch.autocast(x_TD.device.type, enabled=False):
            return F.linear(wide(x_TD), wide(self.weight))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Move and cast as every module, but keep the bias in fp32."""
        bias, self.bias = self.bias, None
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch ships no types for it
        finally:
            self.bias = bias
        if bias is not None:
            moved = fn(bias)
            self.bias = moved if moved.element_size() >= bias.element_size() else bias.to(moved.device)
        return self


def wide(x: Tensor) -> Tensor:
    """Cast to fp32; double stays."""
    return x if x.dtype is torch.float64 else x.float()


def _within_best_groups(chosen_by_TE: Tensor, config: MoEConfig) -> Tensor:
    """Scores with minus infinity for experts outside a token's best groups; a zero could win over negative scores."""
    chosen_by_TML = chosen_by_TE.view(-1, config.n_groups, config.n_experts // config.n_groups)
    if config.group_score == "max":
        groups_TM = chosen_by_TML.amax(-1)
    else:
        groups_TM = chosen_by_TML.topk(2, dim=-1).values.sum(-1)
    best_TM = groups_TM.topk(config.top_groups, dim=-1).indices
    barred_TM = torch.ones_like(groups_TM, dtype=torch.bool).scatter_(-1, best_TM, False)
    return chosen_by_TML.masked_fill(barred_TM[..., None], float("-inf")).flatten(-2)
