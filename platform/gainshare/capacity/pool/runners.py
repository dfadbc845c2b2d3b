"""Runners as the pool shows them. Who lists them is named in settings, because capacity imports nothing of bounty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True, slots=True)
class RunnerRow:
    """One runner. ``busy_with`` is empty while it is idle, ``sandbox_level`` before its first evidence.

    ``device_host`` and ``device`` are the pool's device that it measures on; None for a machine outside of it.
    """

    name: str
    hardware: str
    state: str
    busy_with: str
    sandbox_level: str
    last_seen_at: datetime | None
    device_host: UUID | None
    device: int | None


def runner_rows() -> list[RunnerRow]:
    """All runners that are not retired, by hardware and name."""
    rows = cast(Callable[[], list[RunnerRow]], import_string(settings.CAPACITY_RUNNERS))
    return rows()
