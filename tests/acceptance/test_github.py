"""The story of `gainshare demo --github`, against the stand-in: up to the first verdict, and in test-long to the spent credit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.patch.blobs import BlobStore
from bounty.github.demo.performance import WEBHOOK
from bounty.github.demo.story import Story
from bounty.github.standin.control.standin import running
from gainshare.cli.client import Site
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.watching import Progress
from tests.acceptance.running_stack import ROOT, Stack

pytestmark = [pytest.mark.stack, pytest.mark.sandbox, pytest.mark.timeout(600)]


def test_a_stranger_s_pull_request_is_answered_judged_and_told(
    start_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    """A webhook, a dormant account, a maintainer's /judge, a real run, one check run and one comment."""
    console = Console(stderr=True)
    with running(tmp_path / "repositories") as standin:
        stack = start_stack(**standin.environment())
        standin.set_hook(stack.url + WEBHOOK)
        record = Record(console, stack.url)
        story = Story(
            url=stack.url,
            admin=Site(stack.url, stack.key),
            standin=standin,
            examples=ROOT / "examples",
            model="tiny",
            store=BlobStore(tmp_path / "blobs"),
            record=record,
            progress=Progress(console),
        )
        story.invite()
        story.connect()
        story.open_bounty()
        pull = story.open_pull_request("walter", "patches/faster_but_wrong.diff")
        story.ask_to_judge(pull)
        check = story.judged(pull, conclusion="failure")
        assert record.ok, [step for step in record.steps if not step.ok]
        assert "wrong output" in check.output["title"]
        assert "Gainshare" in story.said(pull, "wrong output")  # the comment follows its check run
        assert len(standin.app_comments(pull)) == 1
        assert len(standin.checks_of(pull)) == 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_pull_request_earns_credits_that_are_spent(open_folder: Path) -> None:
    environment = {**os.environ, "GAINSHARE_HOME": str(open_folder / "home")}
    argv = [sys.executable, "-m", "gainshare.cli.main", "demo", "--github", "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [step["name"] for step in record["steps"] if not step["ok"]] == []
    assert record["chat"]["bill"]["charged_microcredits"] > 0
