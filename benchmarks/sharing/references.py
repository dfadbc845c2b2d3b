"""References: savings and credits in millionths of a price that was set by hand, which has earlier gains in it. Pure.

They are stored in millionths of the price before all gains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from benchmarks.sharing.savings import PRICED_LINES, Placed, Saving, level


@dataclass(frozen=True, slots=True)
class Reference:
    """A price set by hand: when it took effect, and the level of each line by then, in millionths of a nat."""

    since: datetime
    levels: Mapping[str, int]

    @classmethod
    def at(cls, since: datetime, history: Iterable[Placed]) -> Reference:
        """``history`` has all deployments of the model. Those before the price are in it, also if they are lost later."""
        before = [each for each in history if each.served.at < since]
        return cls(since, {line: level(before, line, since) for line in PRICED_LINES})

    def saving_ppm(self, saving: Saving) -> int:
        """What the saving takes off the price."""
        return saving.above_ppm(self.levels[saving.line])

    def credit_ppm(self, saving: Saving, credit_ppm: int) -> int:
        """A gain's part of what the saving takes off the price."""
        return credit_ppm * self.saving_ppm(saving) // saving.ppm

    def claim_ppm(self, saving: Saving, credit_ppm: int) -> int:
        """A gain's part of the saving, also of what the price has in it already: setting a price ends no royalty."""
        whole = self.saving_ppm(saving) + saving.below_ppm(self.levels[saving.line])
        return credit_ppm * whole // saving.ppm
