"""The constants of training, as one frozen dataclass. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ConfigError


@dataclass(frozen=True)
class Recipe:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with clipped gradients and a linear warm-up.

    `clip_norm` bounds the Euclidean norm over all gradients together. The learning rate rises over the first
    `warmup_steps` steps and stays from then on; 0 starts with all of it.
    """

    learning_rate: float = 6e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # of matrices and their stacks; norms' weights do not decay
    clip_norm: float = 1.0
    warmup_steps: int = 20
    balance_rate: float = 1e-3  # how far a router's bias moves per step, where there is one

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Recipe.{name} must be above zero")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Recipe.{name} must be at least 0 and below 1")
        for name in ("weight_decay", "warmup_steps", "balance_rate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Recipe.{name} must not be negative")

    def learning_rate_at(self, step: int) -> float:
        """Of the update after `step` earlier ones."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))
