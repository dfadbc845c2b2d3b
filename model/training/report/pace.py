"""ETA of a run, from its pace so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Pace since this start of the run, at which `share` of the budget and `seconds` were spent."""

    share: float
    seconds: float

    def left_s(self, share: float, seconds: float) -> float | None:
        """Seconds until the budget is spent, at the pace since then; None before anything was done."""
        done = share - self.share
        if done <= 0:
            return None
        return max(0.0, (1 - share) * (seconds - self.seconds) / done)
