"""Shapes of a learning rate over a run, as pure functions. Does not import torch.

`progress` is the share of a run's budget (steps, tokens or seconds) that is spent before an update: 0 at the first one,
below 1 at the last. Budgets in tokens therefore keep their shape when sequences grow in the middle of a run.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleKind = Literal["constant", "cosine", "wsd"]


def warmup(step: int, warmup_steps: int) -> float:
    """Linear warm-up factor over the first `warmup_steps` updates, then one; with 0 it is always one."""
    return min(1.0, (step + 1) / max(warmup_steps, 1))


def shape(kind: ScheduleKind, progress: float, *, decay_share: float, final_share: float) -> float:
    """The factor on the peak rate, without warm-up; between `final_share` and one.

    `constant` is one. `cosine` falls over the whole run (Loshchilov & Hutter 2017, arXiv:1608.03983). `wsd`
    (warm-up, stable, decay) is one until the last `decay_share` of the run and then falls as one minus a square root,
    the best of the forms tried by Haegele et al. 2024 (arXiv:2405.18392): a run can be prolonged from any point of its
    stable part, which a cosine cannot.
    """
    progress = min(max(progress, 0.0), 1.0)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        fallen = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        into_decay = max(progress - (1 - decay_share), 0.0) / decay_share
        fallen = 1 - math.sqrt(into_decay)
    return final_share + (1 - final_share) * fallen
