"""Hyperparameters of training, as one frozen dataclass. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from model.config import ConfigError
from model.training.optim.schedule import ScheduleKind, shape, warmup

LEAST_EPS = 1.2e-38  # just above the smallest normal number of fp32
OptimizerKind = Literal["adamw", "adamw_8bit", "muon"]


@dataclass(frozen=True)
class Recipe:
    """The optimiser and its settings: by default AdamW, clipped gradients, linear warm-up, then a constant rate.

    `adamw` is Loshchilov & Hutter 2019 (arXiv:1711.05101), `adamw_8bit` the same with its moments in eight bits
    (optim/adamw_8bit.py), `muon` orthogonalised momentum for matrices and AdamW for the rest (optim/muon.py).
    `clip_norm` bounds the Euclidean norm over all gradients together. What the learning rate does after its warm-up
    is `schedule`'s subject (optim/schedule.py).
    """

    learning_rate: float = 6e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # of matrices and their stacks; norms' weights do not decay
    clip_norm: float = 1.0
    warmup_steps: int = 20
    balance_rate: float = 1e-3  # how far a router's bias moves per step, where there is one
    optimizer: OptimizerKind = "adamw"
    momentum: float = 0.95  # muon's
    schedule: ScheduleKind = "constant"
    decay_share: float = 0.2  # wsd: the share of the run over which the rate falls
    final_share: float = 0.0  # cosine and wsd: what is left of the rate at the end
    ema_decay: float | None = None  # of the weights' moving average per step; None keeps none
    ahead_weight: float = 0.3  # of the mean loss of multi-token prediction modules, where there are some

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Recipe.{name} must be above zero")
        if self.eps < LEAST_EPS:
            raise ConfigError(
                f"Recipe.eps must be at least {LEAST_EPS:g}: fp32 has no smaller number but 0, and a weight that never had a "
                "gradient would be divided by it"
            )
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Recipe.{name} must be at least 0 and below 1")
        for name in ("weight_decay", "warmup_steps", "balance_rate", "ahead_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"Recipe.{name} must not be negative")
        for name, kind in (("optimizer", OptimizerKind), ("schedule", ScheduleKind)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"Recipe.{name} must be one of {', '.join(get_args(kind))}")
        if not 0 < self.decay_share <= 1:
            raise ConfigError("Recipe.decay_share must be above 0 and at most 1")
        if not 0 <= self.final_share <= 1:
            raise ConfigError("Recipe.final_share must be at least 0 and at most 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError("Recipe.ema_decay must be above 0 and below 1, or None")

    def learning_rate_at(self, step: int, progress: float | None = None) -> float:
        """Learning rate of the update after `step` earlier ones, at the share `progress` of the run's budget.

        Raises ConfigError where the schedule depends on the run's length and `progress` is not given.
        """
        if progress is None and self.schedule != "constant":
            raise ConfigError(
                f"Recipe.schedule {self.schedule!r} needs to know how far the run is: give progress"
            )
        fallen = shape(
            self.schedule, progress or 0.0, decay_share=self.decay_share, final_share=self.final_share
        )
        return self.learning_rate * warmup(step, self.warmup_steps) * fallen
