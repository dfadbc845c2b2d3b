"""Check runs tell the App of themselves."""

from __future__ import annotations

from bounty.github.standin import events
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import CheckRun, Repository


def tell(hub: Hub, repository: Repository, run: CheckRun, action: str) -> None:
    """Send `check_run` created or completed."""
    events.check_run(hub, action, repository, run)
