"""Follows a submission by polling the REST API, with live progress, until it has its verdict."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from gainshare.cli.contributor.submission import BEING_JUDGED, is_resting, stage_words
from gainshare.cli.demo.people import Person
from gainshare.cli.output import CliError

POLL_S = 0.5
LIMIT_S = 3000.0  # enough for a gain with guard rails on a slow, noisy machine; usually 10 minutes


class Progress:
    """Progress output: a line for each new text, and on a terminal a last line that changes in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._last = ""

    def show(self, text: str, *, detail: str = "") -> None:
        """Print `text` unless it was the last one; `detail` is only shown on a terminal."""
        if text != self._last:
            self._console.print(f"     [dim]{escape(text)}[/]", highlight=False)
            self._last = text
        if self._console.is_terminal:
            self._status.update(escape(detail or text))
            self._status.start()

    def stop(self) -> None:
        """Remove the changing line."""
        self._status.stop()


def wait_for_verdict(person: Person, submission: str, progress: Progress) -> dict[str, Any]:
    """Poll until the submission rests (a passed gate continues to its confirmation first).

    Raises CliError after ``LIMIT_S`` seconds without a verdict.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        seen: dict[str, Any] = person.get(f"submissions/{submission}/")
        stage, detail = describe(seen)
        progress.show(f"{person.name}: {stage}", detail=f"{person.name}: {stage}{detail}")
        if is_resting(seen):
            progress.stop()
            return seen
        time.sleep(POLL_S)
    raise CliError(f"submission {submission} has no verdict after {LIMIT_S:.0f} s; see `gainshare status`")


def describe(submission: dict[str, Any]) -> tuple[str, str]:
    """The submission's stage, and the number of interim checks while it is being judged (empty otherwise)."""
    is_hidden = submission["state"] == BEING_JUDGED
    return stage_words(submission), f", {submission['looks']} interim checks" if is_hidden else ""
