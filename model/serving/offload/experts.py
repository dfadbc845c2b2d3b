"""A layer's experts on two devices; they are exchanged while the model serves.

Memory stays constant: an expert that enters the accelerator takes the place of the one that leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from model.layers.moe.layer import Experts
from model.layers.moe.load import expert_load
from model.parallel.placement.experts import OffloadedExperts

WEIGHTS = ("w_gate", "w_up", "w_down")


class MovableExperts(OffloadedExperts):
    """Replaces a layer's `Experts`; counts each one's (token, expert) pairs, and moves experts between the devices."""

    load_E: Tensor  # int64, pairs since the last `take_load`

    def __init__(
        self, experts: Experts, hot: Sequence[int], accelerator: torch.device, host: torch.device
    ) -> None:
        super().__init__(experts, hot, accelerator, host)
        self.register_buffer("load_E", torch.zeros(len(self.is_hot_E), dtype=torch.int64), persistent=False)
        self.requires_grad_(False)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        self.load_E += expert_load(experts_TK, len(self.load_E))
        return super().forward(x_TD, weights_TK, experts_TK)

    def index_on(self, device: torch.device) -> Self:
        """Put the counts and the experts' index on the router's device; returns itself."""
        for name, buffer in dict(self.named_buffers(recurse=False)).items():
            setattr(self, name, buffer.to(device))
        return self

    @property
    def hot_ids(self) -> list[int]:
        """The experts on the accelerator, ascending."""
        ids: list[int] = self.is_hot_E.nonzero().squeeze(-1).tolist()
        return ids

    def take_load(self) -> list[int]:
        """Pairs of each expert since the last call."""
        load: list[int] = self.load_E.tolist()
        self.load_E.zero_()
        return load

    @torch.no_grad()
    def exchange(self, leaving: int, entering: int) -> None:
        """Put `entering` on the accelerator in the place of `leaving`, which moves to the host.

        Raises ValueError if they are not on these devices. Nothing has changed if memory for the copies was missing.
        """
        if self.hot is None or self.cold is None or not self.is_hot_E[leaving] or self.is_hot_E[entering]:
            raise ValueError(f"expert {leaving} is not on the accelerator, or {entering} not on the host")
        hot_place, cold_place = int(self.local_E[leaving]), int(self.local_E[entering])
        sides = [(getattr(self.hot, name), getattr(self.cold, name)) for name in WEIGHTS]
        left = [hot[hot_place].to(self.cold.device, copy=True) for hot, _ in sides]
        for (hot, cold), weight in zip(sides, left, strict=True):
            hot[hot_place].copy_(cold[cold_place])
            cold[cold_place].copy_(weight)
        self.is_hot_E[leaving], self.is_hot_E[entering] = False, True
        self.local_E[leaving], self.local_E[entering] = cold_place, hot_place
