"""GitHub's limits: so many requests an hour for each installation, and secondary ones on creating too fast."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@dataclass
class Window:
    """What one caller used since the window began."""

    began_at: datetime
    used: int = 0


@dataclass
class Limits:
    """Limits as GitHub documents them, adjustable for tests."""

    per_hour: int = 5000
    writes_per_minute: int = 80
    secondary_until: datetime | None = None
    _windows: dict[str, Window] = field(default_factory=dict)
    _writes: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))

    def window(self, caller: str, now: datetime) -> Window:
        """The caller's window, a new one if the last has ended."""
        window = self._windows.get(caller)
        if window is None or now >= window.began_at + HOUR:
            window = self._windows[caller] = Window(now)
        return window

    def headers(self, caller: str, now: datetime) -> dict[str, str]:
        """The headers that say what is left."""
        window = self.window(caller, now)
        return {
            "X-RateLimit-Limit": str(self.per_hour),
            "X-RateLimit-Remaining": str(max(0, self.per_hour - window.used)),
            "X-RateLimit-Used": str(window.used),
            "X-RateLimit-Reset": str(int((window.began_at + HOUR).timestamp())),
            "X-RateLimit-Resource": "core",
        }

    def is_used_up(self, caller: str, now: datetime) -> bool:
        return self.window(caller, now).used >= self.per_hour

    def use_up(self, caller: str, now: datetime) -> None:
        """Leave the caller nothing for the rest of its hour."""
        self.window(caller, now).used = self.per_hour

    def wait_s(self, caller: str, now: datetime, *, is_write: bool) -> int | None:
        """Seconds that a secondary limit makes the caller wait; None if none does."""
        if self.secondary_until is not None and now < self.secondary_until:
            return max(1, int((self.secondary_until - now).total_seconds()))
        if not is_write:
            return None
        recent = [at for at in self._writes[caller] if at > now - MINUTE]
        self._writes[caller] = recent
        if len(recent) >= self.writes_per_minute:
            return max(1, int((recent[0] + MINUTE - now).total_seconds()))
        recent.append(now)
        return None
