"""Output of a submission: one line with its state, once or live."""

import time
from typing import Any

from rich.live import Live
from rich.markup import escape

from gainshare.cli.client import Site
from gainshare.cli.output import errors

RESTING = frozenset(
    {"rejected", "judged", "confirmed", "accepted", "declined", "vested", "reversed", "withdrawn"}
)
OPEN_RUN = frozenset({"queued", "leased", "preparing", "gating", "measuring"})
BEING_JUDGED = "being_judged"  # until the decision, for those who may not see more
POLL_S = 1.0


def stage_words(submission: dict[str, Any]) -> str:
    """The stage as the site names it, with the measurement in progress; the state where it tells no stage."""
    return str(submission.get("stage") or submission["state"]).replace("_", " ")


def describe(submission: dict[str, Any]) -> str:
    """State, then progress or the verdict with its reason. While it is being judged, no run is told."""
    text = stage_words(submission)
    if submission["state"] == BEING_JUDGED:
        text += f", {_progress(submission)}"
    for run in submission.get("runs") or ():
        if run["state"] in OPEN_RUN:
            text += f", {run['kind']} run {run['state']}"
            if run.get("pairs_max"):
                text += f" ({run['pairs_done']} of {run['pairs_max']} pairs)"
    if verdict := submission.get("verdict"):
        text += f", {verdict['kind']}: {verdict['reason']}"
    return text


def _progress(submission: dict[str, Any]) -> str:
    """Place in the queue, or the number of interim checks."""
    queue = submission.get("queue") or {}
    if (ahead := queue.get("position")) is not None:
        return f"{ahead} ahead of it in the queue"
    return f"{submission.get('looks') or 0} interim checks so far"


def is_resting(submission: dict[str, Any]) -> bool:
    """Whether nothing more happens without a person. A passed gate is `judged` for a moment, without a
    verdict, and a confirmed gain may be measured again at random."""
    if any(run["state"] in OPEN_RUN for run in submission.get("runs") or ()):
        return False
    return submission["state"] in RESTING and submission["verdict"] is not None


def watch(where: Site, submission: str, *, quiet: bool) -> dict[str, Any]:
    """Poll until the submission rests, with a live line on standard error. Returns its last form."""
    seen: dict[str, Any] = where.get(f"submissions/{submission}/")
    with Live(console=errors, transient=True, auto_refresh=False) as live:
        while not is_resting(seen):
            if not quiet:
                live.update(escape(describe(seen)), refresh=True)
            time.sleep(POLL_S)
            seen = where.get(f"submissions/{submission}/")
    return seen
