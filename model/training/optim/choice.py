"""Build the optimiser that a recipe names, over a model's parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from model.training.config.recipe import Recipe
from model.training.optim.adamw import AdamW

TABLES = ("embedding", "head")  # their rows see gradients of very different size: no 8-bit moments


def optimizer_for(
    model: nn.Module, recipe: Recipe, further: Iterable[tuple[str, nn.Parameter]] = ()
) -> torch.optim.Optimizer:
    """Build the optimiser `recipe.optimizer` over the trainable parameters of the model and those in `further`."""
    named = [*model.named_parameters(), *further]
    parameters = [parameter for _, parameter in named]
    if recipe.optimizer == "muon":
        from model.training.optim.muon import Muon

        return Muon(named, recipe)
    if recipe.optimizer == "adamw_8bit":
        from model.training.optim.adamw_8bit import adamw_8bit

        tables = [parameter for name, parameter in named if name in TABLES]
        return adamw_8bit(parameters, recipe, full_precision=tables)
    return adamw(parameters, recipe, AdamW)


def adamw(
    parameters: Iterable[nn.Parameter], recipe: Recipe, kind: type[torch.optim.AdamW] = torch.optim.AdamW
) -> torch.optim.AdamW:
    """Build AdamW with weight decay on matrices and their stacks, not on vectors.

    It is torch's fused form: on one core 2 to 6 times as fast as an operation per tensor and moment, depending on size.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if parameter.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return kind(
        groups, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
