"""Ctrl-C and SIGTERM as a request that the training loop reads between two steps. Does not import torch.

The first signal asks to finish the step and save. A second Ctrl-C raises KeyboardInterrupt at once, without
waiting. The previous handlers are restored at the end.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """`received` is the first signal that came, None before. Works in a process's main thread only."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """The exit status of a process that a signal ended; 0 if none came."""
        return 0 if self.received is None else 128 + self.received

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
