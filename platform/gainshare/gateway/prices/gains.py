"""What the deployments of a model save, and whose gains made it: read from `capacity` and from who is named in settings.

The platform knows nothing of bounties, so the function that lists the shares is named by `settings.GAIN_SHARES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string

from benchmarks.sharing.royalties import royalty_ppm
from benchmarks.sharing.savings import Placed
from gainshare.capacity.deployments.prices import history_of


@dataclass(frozen=True, slots=True)
class GainShare:
    """One gain's part of what a deployment saves on one line, and of that its maker's share, while it runs."""

    deployment: UUID
    line: str
    gain: str
    submission: UUID
    person: str
    saving_ppm: int
    share_ppm: int
    starts_at: datetime
    ends_at: datetime
    ended_at: datetime | None = None
    is_reversed: bool = False

    def runs_at(self, at: datetime) -> bool:
        return self.starts_at <= at < min(self.ends_at, self.ended_at or self.ends_at)

    @property
    def royalty_ppm(self) -> int:
        return royalty_ppm(self.saving_ppm, self.share_ppm)


def gain_shares(model: str) -> list[GainShare]:
    """Every share in what the model's deployments save, in the order in which the gains were booked."""
    rows = cast(Callable[[str], list[GainShare]], import_string(settings.GAIN_SHARES))
    return rows(model)


def begin_shares(model: str) -> None:
    """Begin the shares that are due: no price may be derived as if a gain that serves had no author. Repeatable."""
    begin = cast(Callable[[str], object], import_string(settings.BEGIN_SHARES))
    begin(model)


def savings_of(model: str, shares: Iterable[GainShare] | None = None) -> list[Placed]:
    """Every deployment of the model that served, with what it saves. Those that were taken back no longer count."""
    return history_of(model, _reversed_at(gain_shares(model) if shares is None else shares))


def _reversed_at(shares: Iterable[GainShare]) -> dict[UUID, datetime]:
    """When the last gain of each deployment was reversed, of those whose gains all were."""
    by_deployment: dict[UUID, list[GainShare]] = defaultdict(list)
    for share in shares:
        by_deployment[share.deployment].append(share)
    return {
        deployment: max(share.ended_at for share in found if share.ended_at is not None)
        for deployment, found in by_deployment.items()
        if all(share.is_reversed and share.ended_at is not None for share in found)
    }
