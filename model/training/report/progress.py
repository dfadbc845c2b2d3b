"""Progress display of a run: a live bar on a terminal, plain lines elsewhere.

Does not import torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from model.training.report.event_text import describe, figures
from model.training.report.events import Event, Observer, Stepped

LINE_EVERY_S = 10.0
BAR = 1000  # units of a full bar


def progress_on(console: Console) -> Observer:
    """Choose the observer for a console: a bar on a terminal, else lines."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


class PlainProgress:
    """A line for every event; of steps the first, and then one each `LINE_EVERY_S` seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._last: float | None = None

    def on(self, event: Event) -> None:
        if isinstance(event, Stepped):
            now = self._clock()
            if self._last is not None and now - self._last < LINE_EVERY_S:
                return
            self._last = now
        _print(self._console, event)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class LiveProgress:
    """The newest step as a bar with its figures below, and a line above it for every other event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=4)
        self._is_open = False

    def on(self, event: Event) -> None:
        if not isinstance(event, Stepped):
            _print(self._console, event)
            return
        if not self._is_open:
            self._live.start()
            self._is_open = True
        self._live.update(_panel(event))

    def close(self) -> None:
        if self._is_open:
            self._live.stop()
            self._is_open = False


def _panel(event: Stepped) -> Group:
    done = min(event.progress, 1.0)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        f"step {event.step:,}", ProgressBar(BAR, round(done * BAR), width=40), f"{event.tokens:,} tokens"
    )
    shown = Text()
    for name, value in figures(event).items():
        shown.append(f"{name} ", style="dim")
        shown.append(f"{value}  ")
    return Group(bar, shown)


def _print(console: Console, event: Event) -> None:
    console.print(escape(describe(event)), highlight=False, soft_wrap=True)
