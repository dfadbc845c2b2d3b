"""Progress of long work as plain lines on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Describe = Callable[[str, int, int | None], str]


class ProgressLines:
    """Prints at most one line a second and stage, plus the first of each stage and the last if the total is known.

    `describe` makes the line from the stage, the amount done, and the total if known.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._shown_at = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage == self._stage and done != total and now - self._shown_at < 1:
            return
        self._stage, self._shown_at = stage, now
        sys.stderr.write(f"{self._describe(stage, done, total)}\n")
        sys.stderr.flush()
