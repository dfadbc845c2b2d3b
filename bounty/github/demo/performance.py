"""Runs the story: starts the stand-in and a fresh stack that knows it, plays, stops both, writes `demo-github.json`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.patch.blobs import BlobStore
from bounty.github.demo.story import Story
from bounty.github.standin.control.standin import StandIn, running
from gainshare.cli.client import Site
from gainshare.cli.demo.performance import FAILURES, MODEL, end, start_afresh
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.watching import Progress
from gainshare.local.paths import ROOT, Home, home_from_environment
from gainshare.local.secrets import Secrets, read_secret

WEBHOOK = "/api/v1/github/webhook/"
POLL_S = "10"  # what a lost event costs at most


def run_story(*, port: int, console: Console) -> Record:
    """Play the story in `GAINSHARE_HOME/demo-github`, which starts empty each time; its record is always written."""
    parent = home_from_environment()
    home = Home(parent.root / "demo-github")
    record, progress = Record(console), Progress(console)
    with tempfile.TemporaryDirectory(prefix="gainshare-github-") as folder:
        root = Path(folder)
        with running(root / "repositories", hook_url=f"http://127.0.0.1:{port}{WEBHOOK}") as standin:
            try:
                more = {**standin.environment(), "GAINSHARE_REPOSITORY_POLL_S": POLL_S}
                start_afresh(home, parent, record, progress, port, more)
                _story(home, standin, BlobStore(root / "blobs"), record, progress).play()
            except FAILURES as error:
                console.print(f"[red]the demo ended early:[/] {error}", highlight=False)
            finally:
                progress.stop()
                end(home, record)
    record.save(parent.root / "demo-github.json")
    return record


def _story(home: Home, standin: StandIn, store: BlobStore, record: Record, progress: Progress) -> Story:
    return Story(
        url=record.url,
        admin=Site(record.url, read_secret(Secrets(home.secrets).admin_key)),
        standin=standin,
        examples=ROOT / "examples",
        model=MODEL,
        store=store,
        record=record,
        progress=progress,
    )
