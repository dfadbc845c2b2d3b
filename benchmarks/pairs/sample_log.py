"""Output of samples for the run's log: each line labelled, bounded over all samples of a run.

The words are those of the submitted code; the sandbox has made them safe to print.
"""

from collections.abc import Callable

MAX_LOG_CHARACTERS = 64 * 1024  # of all samples of a run together


class SampleLog:
    """Call it with a label and some whole lines as they come."""

    def __init__(self, on_log: Callable[[str], None]) -> None:
        self._on_log, self._room = on_log, MAX_LOG_CHARACTERS

    def __call__(self, label: str, text: str) -> None:
        if not text or self._room <= 0:
            return
        lines = "".join(f"[{label}] {line}\n" for line in text.splitlines())[: self._room]
        self._room -= len(lines)
        if self._room <= 0:
            lines += "\n[the log is full: no more output is kept]\n"
        self._on_log(lines)
