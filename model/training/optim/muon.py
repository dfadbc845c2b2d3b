"""Muon: momentum, orthogonalised for matrices before it becomes the update, with AdamW for all other parameters.

K. Jordan 2024 (kellerjordan.github.io/posts/muon); scaled as in Liu et al. 2025 (arXiv:2502.16982), so that an update's
root mean square is that of AdamW and one learning rate and weight decay serve both. Stacked experts are orthogonalised
expert by expert. An expert's update has the same size whether its gradient is large or tiny, as it is with all of
Muon's matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_update

from model.training.config.recipe import Recipe

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration pulls singular values towards one
ITERATIONS = 5
NORM_EPS = 1e-7
RMS = 0.2  # AdamW's updates have about this root mean square
# Parameters that are tables or scores per row, not maps from one hidden space to another.
NOT_MATRICES = ("embedding", "head", "router", "shared_gate")


def is_muon_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates it: matrices and stacks of them inside blocks; no embedding, head, router or gate."""
    return parameter.ndim > 1 and not set(NOT_MATRICES) & set(name.split("."))


def orthogonalised(update: Tensor) -> Tensor:
    """Newton-Schulz on each matrix of [..., M, N], in bf16: same singular vectors, singular values of 0.7 to 1.2.

    A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    is_tall = update.shape[-2] > update.shape[-1]
    x = update.reshape(-1, *update.shape[-2:]).to(torch.bfloat16)
    x = x.mT if is_tall else x  # the smaller side's products are the cheaper ones
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=NORM_EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).reshape(update.shape)


class Muon(torch.optim.Optimizer):
    """Muon optimiser; each group's `rule` ("muon" or "adamw") selects its update, all share one learning rate."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> None:
        trained = [(name, p) for name, p in named_parameters if p.requires_grad]
        matrices = [p for name, p in trained if is_muon_matrix(name, p)]
        tables = [p for name, p in trained if p.ndim > 1 and not is_muon_matrix(name, p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "rule": "muon", "weight_decay": recipe.weight_decay},
            {"params": tables, "rule": "adamw", "weight_decay": recipe.weight_decay},
            {"params": [p for _, p in trained if p.ndim <= 1], "rule": "adamw", "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": recipe.learning_rate})
        self.momentum, self.betas, self.eps = recipe.momentum, (recipe.beta1, recipe.beta2), recipe.eps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Closures are not supported."""
        if closure is not None:
            raise ValueError("this optimiser takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["rule"] == "muon":
                for parameter in parameters:
                    self._move(parameter, group)
            elif parameters:
                self._move_by_adamw(parameters, group)

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - self.momentum)
        update = orthogonalised(gradient.lerp(momentum, self.momentum))  # Nesterov's look ahead
        scale = RMS * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)

    def _move_by_adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw_update(
            list(parameters),
            [parameter.grad for parameter in parameters],  # type: ignore[misc]  # chosen by having one
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            maximize=False,
        )
