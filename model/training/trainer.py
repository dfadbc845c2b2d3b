"""One optimiser step after another on batches of token ids.

This is the seam that the judge's training suites measure: `Trainer(model)` and `step(tokens_BS)`. Knows nothing of where
batches come from, of evaluation, files or several processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.layers.moe import MoELayer
from model.training.loss import next_token_loss
from model.training.optimizer import adamw, set_learning_rate
from model.training.recipe import Recipe
from model.transformer import Transformer


class Trainer:
    """Trains `model` in place and keeps its optimiser's state; `steps` updates are behind it."""

    def __init__(self, model: Transformer, recipe: Recipe | None = None) -> None:
        self.model = model.train()
        self.recipe = recipe or Recipe()
        self.optimizer = adamw(model.parameters(), self.recipe)
        self.steps = 0

    def step(self, tokens_BS: Tensor) -> Tensor:
        """One update on a batch [B, S] of at least two positions; returns its loss before it, an fp32 scalar."""
        set_learning_rate(self.optimizer, self.recipe.learning_rate_at(self.steps))
        loss = next_token_loss(self.model(tokens_BS), tokens_BS)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no types for it
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self._balance()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def logits(self, tokens_BS: Tensor) -> Tensor:
        """The model as trained so far, on whole sequences: ids [B, S] -> fp32 logits [B, S, V]."""
        self.model.eval()
        try:
            logits_BSV: Tensor = self.model(tokens_BS)
        finally:
            self.model.train()
        return logits_BSV

    def _balance(self) -> None:
        for module in self.model.modules():
            if isinstance(module, MoELayer) and module.load_E is not None:
                module.balance(self.recipe.balance_rate)
