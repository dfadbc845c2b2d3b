"""Follow a submission by polling the REST API, showing live progress, until it has its verdict."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from gainshare.cli.demo.people import Person
from gainshare.cli.output import CliError

POLL_S = 0.5
LIMIT_S = 420.0
RESTING = frozenset(
    {"rejected", "judged", "confirmed", "accepted", "declined", "vested", "reversed", "withdrawn"}
)


class Progress:
    """One line per change of stage, and a status line that lives below it on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def show(self, text: str) -> None:
        if text != self._last:
            self._console.print(f"     [dim]{escape(text)}[/]")
            self._last = text


def wait_for_verdict(person: Person, submission: str, progress: Progress) -> dict[str, Any]:
    """Poll until the submission rests (a passed gate goes on to its confirmation first).

    Raises CliError after ``LIMIT_S`` seconds without a verdict.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        seen: dict[str, Any] = person.get(f"submissions/{submission}/")
        progress.show(f"{person.name}: {describe(seen)}")
        if seen["state"] in RESTING and seen["verdict"] is not None:
            return seen
        time.sleep(POLL_S)
    raise CliError(f"submission {submission} has no verdict after {LIMIT_S:.0f} s; see `gainshare status`")


def describe(submission: dict[str, Any]) -> str:
    """The submission's state and, while a run is on, its stage and pairs done."""
    for run in submission["runs"]:
        if run["state"] not in {"finished", "lost", "queued"}:
            done, most = run["pairs_done"], run["pairs_max"]
            return f"{submission['state']}, {run['kind']} {run['state']}, {done} of at most {most} pairs"
    return str(submission["state"])
