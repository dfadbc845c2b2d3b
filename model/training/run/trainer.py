"""Trainer: optimiser steps on batches of token ids.

This is the seam that the judge's training suites measure: `Trainer(model)` and `step(tokens_BS)`. `update` is the same
step for packed batches, in several micro-batches, in 16 bits, with a moving average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.data.batches.batch import PADDING, Batch
from model.layers.moe.balance import balance_experts
from model.layers.moe.layer import count_tokens_only, set_loss_scale
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_loss
from model.training.losses.objective import Losses, Objective, losses_on
from model.training.optim import adamw_fused
from model.training.optim.adamw import AdamW
from model.training.optim.choice import optimizer_for, set_learning_rate
from model.training.optim.ema import WeightAverage
from model.training.optim.precision import Precision, autocast, cast_experts, cast_places, loss_scaler
from model.training.optim.working_copies import WorkingCopies
from model.training.run.errors import require_finite
from model.transformer import Transformer

LEAST_LOSS_SCALE = 2.0**-4  # fp16: below it gradients overflow for another reason than the scale


@dataclass(frozen=True)
class Update:
    """Result of one update. Losses are means in nats per target, before the update."""

    loss: float
    ahead_loss: float | None  # of multi-token prediction (MTP), unweighted; None if the model has none
    gradient_norm: float  # before clipping
    learning_rate: float
    n_tokens: int
    n_targets: int
    is_skipped: bool  # fp16 only: gradients overflowed, so nothing moved


class Trainer:
    """Trains `model` in place and keeps its optimiser's state; `steps` is the number of updates made."""

    def __init__(
        self, model: Transformer, recipe: Recipe | None = None, *, precision: Precision = "fp32"
    ) -> None:
        self.model = model.train()
        self.recipe = recipe or Recipe()
        self.precision: Precision = precision
        if precision != "fp32":
            cast_experts(model)
        self.optimizer = optimizer_for(model, self.recipe)
        self.scaler = loss_scaler(precision, model.device)
        decay = self.recipe.ema_decay
        self.average = None if decay is None else WeightAverage(model, decay)
        self.objective: Objective = losses_on  # what `update` minimises; another one may be set
        self.objective_parameters: dict[str, nn.Parameter] = {}  # trained with the model's
        self.steps = 0

    def learn_by(self, objective: Objective) -> None:
        """Set the objective before the first update; its parameters, if any, are trained with the model's.

        Raises ValueError where the optimiser has moments already: they would be lost.
        """
        if self.optimizer.state:
            raise ValueError("set the objective before the first update: the optimiser already has moments")
        self.objective = objective
        if isinstance(objective, nn.Module):
            own = objective.to(self.model.device).named_parameters(prefix="objective")
            self.objective_parameters = dict(own)
        self.optimizer = optimizer_for(self.model, self.recipe, self.objective_parameters.items())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All trained parameters: the model's, and the objective's under the prefix `objective.`."""
        yield from self.model.named_parameters()
        yield from self.objective_parameters.items()

    def step(self, tokens_BS: Tensor) -> Tensor:
        """Make one update on a batch [B, S] of at least two positions; returns the loss before it, an fp32 scalar."""
        set_learning_rate(self.optimizer, self.recipe.learning_rate_at(self.steps))
        loss = next_token_loss(self.model(tokens_BS), tokens_BS)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no types for it
        self._clip_grad_norm_()
        self.optimizer.step()
        self._after_update()
        return loss.detach()

    def update(
        self,
        micro_batches: Sequence[Batch],
        *,
        progress: float | None = None,
        learning_rate_scale: float = 1.0,
    ) -> Update:
        """Make one update on all micro-batches as if they were one batch: each target weighs the same.

        `progress` is the share of the run's budget spent so far, for schedules that need it; `learning_rate_scale` a
        curriculum's factor on the recipe's rate. Raises NotFiniteError before anything has moved, and ValueError
        where no target is scored.
        """
        n_targets = sum(batch.n_targets for batch in micro_batches)
        if n_targets == 0:
            raise ValueError("no position of this batch is scored, so it has no loss")
        learning_rate = self.recipe.learning_rate_at(self.steps, progress) * learning_rate_scale
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward_of_all(micro_batches, n_targets)
        loss = _sum([part.next_token for part in losses])
        mtp = [part.mtp for part in losses if part.mtp is not None]
        self.scaler.unscale_(self.optimizer)
        norm = float(self._clip_grad_norm_())
        is_skipped = self._require_finite(loss, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._after_update(is_skipped=is_skipped)
        return Update(
            loss=loss,
            ahead_loss=_sum(mtp) if mtp else None,
            gradient_norm=norm,
            learning_rate=learning_rate,
            n_tokens=sum(batch.n_tokens for batch in micro_batches),
            n_targets=n_targets,
            is_skipped=is_skipped,
        )

    @torch.no_grad()
    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Logits of the model as trained so far, on whole sequences: ids [B, S] -> fp32 logits [B, S, V]."""
        self.model.eval()
        try:
            logits_BSV: Tensor = self.model(tokens_BS)
        finally:
            self.model.train()
        return logits_BSV

    def _backward_of_all(self, micro_batches: Sequence[Batch], n_targets: int) -> list[Losses]:
        copies = self._working_copies()
        if copies is None:
            return [self._backward(batch, n_targets) for batch in micro_batches]
        with copies.in_place(cast_places(self.model), adds_up=len(micro_batches) > 1):
            return [self._backward(batch, n_targets) for batch in micro_batches]

    def _working_copies(self) -> WorkingCopies | None:
        """The optimiser's working copies if it updates them: on a CPU with the kernel."""
        if self.precision != "bf16" or self.model.device.type != "cpu" or not adamw_fused.is_usable():
            return None
        return self.optimizer.copies if isinstance(self.optimizer, AdamW) else None

    def _clip_grad_norm_(self) -> Tensor:
        """Clip the gradients for the optimiser's next step; returns their norm before clipping."""
        moved = [parameter for _, parameter in self.named_parameters()]
        if isinstance(self.optimizer, AdamW):
            return self.optimizer.clip_grad_norm_(moved, self.recipe.clip_norm)
        return nn.utils.clip_grad_norm_(moved, self.recipe.clip_norm)

    def _backward(self, batch: Batch, n_targets: int) -> Losses:
        """Adds a micro-batch's share of the gradients; returns its share of the losses."""
        # A mean over this micro-batch weighs as much as its targets, and is scaled like the loss in fp16.
        set_loss_scale(self.model, batch.n_targets / n_targets * self.scaler.get_scale())
        is_padded = batch.n_tokens < batch.n_cells  # computed on the host's copy
        batch = batch.to(self.model.device, non_blocking=True)
        with count_tokens_only(self.model, batch.documents_BS != PADDING if is_padded else None):
            with autocast(self.precision, self.model.device):
                losses = self.objective(self.model, batch, n_targets=n_targets)
            total = losses.next_token
            if losses.mtp is not None:
                total = total + self.recipe.ahead_weight * losses.mtp
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return Losses(losses.next_token.detach(), None if losses.mtp is None else losses.mtp.detach())

    def _require_finite(self, loss: float, norm: float) -> bool:
        """Whether this update must be left out, which only fp16 may do."""
        is_overflow = self.scaler.is_enabled() and not math.isfinite(norm)
        if is_overflow and math.isfinite(loss) and self.scaler.get_scale() > LEAST_LOSS_SCALE:
            return True
        require_finite(self.steps, loss, norm)
        return False

    def _after_update(self, *, is_skipped: bool = False) -> None:
        balance_experts(self.model, self.recipe.balance_rate)
        if self.average is not None and not is_skipped:
            self.average.update(self.model)
        self.steps += 1


def _sum(parts: Sequence[Tensor]) -> float:
    return float(torch.stack(list(parts)).double().sum())
