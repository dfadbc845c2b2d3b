"""Sums in a fixed order for any number of threads, so that the same update gives the same bits.

Gradients of rows that were taken several times, as tokens are for their experts, are added up by torch's `x[rows]`
backward. On a CPU several threads do that at once, in any order, unless torch is asked for its deterministic
algorithms; on CUDA it sorts first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ordered_sums(device: torch.device) -> Iterator[None]:
    """Context in which all threads of the process sum in order, where `device` is a CPU; no effect elsewhere."""
    if device.type != "cpu":
        yield
        return
    were_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic
    were_filled = filling.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property of the module
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would write new memory once more
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(were_on, warn_only=only_warned)
        filling.fill_uninitialized_memory = were_filled  # type: ignore[attr-defined]
