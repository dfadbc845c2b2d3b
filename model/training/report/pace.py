"""ETA of a run, from its pace so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Measured from where this start of the run began: `share` of its budget done, `seconds` spent."""

    share: float
    seconds: float

    def left_s(self, share: float, seconds: float) -> float | None:
        """Seconds until the budget is spent, at the pace since then; None before anything was done."""
        done = share - self.share
        if done <= 0:
            return None
        return max(0.0, (1 - share) * (seconds - self.seconds) / done)
