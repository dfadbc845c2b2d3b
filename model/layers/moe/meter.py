"""Per-layer counters of an MoE layer in training: each pass is counted once, without waiting for the device.

`model/layers/moe/metrics.py` reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.moe.auxiliary_losses import LOSSES

N_SUMS = 1 + len(LOSSES)


def is_recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass: activation checkpointing repeats one that was counted.

    Works for reentrant and non-reentrant checkpoints: neither marks its second run, but autograd knows that it is
    active in this thread.
    """
    return torch._C._current_graph_task_id() != -1


# The mark of `torch.compiler.assume_constant_result`, since a compiled region's Python runs in the first pass only. The
# decorator itself would import the compiler, which takes most of a second in every process.
is_recomputing._dynamo_marked_constant = True  # type: ignore[attr-defined]


class ExpertMeter:
    """Counts and sums since the last `reset`. It is off, without any cost, until `is_on` is set."""

    def __init__(self, n_experts: int) -> None:
        self.n_experts = n_experts
        self.is_on = False
        self.reset()

    def reset(self) -> None:
        self._load_E: Tensor | None = None
        self._sums: Tensor | None = None
        self._n_tokens = self._n_dropped = self._n_passes = 0

    @torch.no_grad()
    def record(self, load_E: Tensor, n_dropped: int, logits_TE: Tensor, losses: dict[str, Tensor]) -> None:
        """Record one pass over its tokens: pairs per expert, dropped pairs, the router's logits, the unweighted losses."""
        squares = logits_TE.detach().float().square().sum()
        values = [
            losses[name].detach().float() if name in losses else torch.zeros_like(squares) for name in LOSSES
        ]
        sums = torch.stack([squares, *values])
        self._load_E = load_E if self._load_E is None else self._load_E + load_E
        self._sums = sums if self._sums is None else self._sums + sums
        self._n_tokens += len(logits_TE)
        self._n_dropped += n_dropped
        self._n_passes += bool(
            len(logits_TE)
        )  # a pass of padding alone has no losses and would lower their means

    @property
    def n_counts(self) -> int:
        return self.n_experts + 3

    def counts(self, device: torch.device) -> Tensor:
        """int64 [E + 3]: pairs per expert (dropped ones included), then tokens, dropped pairs and passes."""
        last = torch.tensor([self._n_tokens, self._n_dropped, self._n_passes], device=device)
        if self._load_E is None:
            return torch.cat([last.new_zeros(self.n_experts), last])
        return torch.cat([self._load_E.to(device), last])

    def sums(self, device: torch.device) -> Tensor:
        """fp32 [N_SUMS]: squares of the logits over all tokens, then each of `LOSSES` over the passes."""
        return torch.zeros(N_SUMS, device=device) if self._sums is None else self._sums.to(device)
