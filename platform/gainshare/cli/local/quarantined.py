"""Runners of this machine's site that are quarantined, for people who wonder why nothing is judged."""

from pathlib import Path

from gainshare.cli.client import Site, SiteError
from gainshare.local.secrets import read_secret
from gainshare.local.state import StackState


def quarantined_runners(state: StackState) -> list[str]:
    """A line for each, with what to do; where the site cannot be asked, one that says why."""
    try:
        found = Site(state.url, read_secret(Path(state.files["admin_key"]))).get("runners/")["results"]
    except (SiteError, OSError) as error:
        return [f"it is not known whether a runner is quarantined: {error}"]
    return [
        f"the runner {row['name']} is quarantined ({row['quarantine_cause']}), so it judges nothing: see `gainshare runners "
        f"show {row['name']}`, and release it by `gainshare runners release {row['name']} --reason TEXT` where its machine is "
        "as it should be"
        for row in found
        if row["quarantine_cause"]
    ]
