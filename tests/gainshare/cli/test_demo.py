"""`gainshare demo` that does not end well: by a signal its stack is stopped, and a gain without award says so."""

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.commands import SIGNALS
from bounty.github.demo import __main__ as story
from gainshare.cli.client import Site
from gainshare.cli.demo import command, performance, scenario, watching
from gainshare.cli.demo.people import Person
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.stage import Stage
from gainshare.cli.demo.watching import Progress
from gainshare.cli.main import app
from gainshare.cli.output import CliError


@pytest.fixture(autouse=True)
def hears_sighup() -> Iterator[None]:
    """Programs that nohup starts ignore SIGHUP, as this run of tests may, and a demo leaves it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def ended_by(number: signal.Signals) -> Callable[..., None]:
    def begun(*_args: Any, **_options: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(30)
        raise AssertionError("the signal changed nothing")

    return begun


@pytest.mark.parametrize("number", SIGNALS)
def test_a_demo_that_is_ended_stops_its_stack(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    stopped: list[object] = []
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path))
    monkeypatch.setattr(performance, "start_afresh", lambda *_, **__: None)
    monkeypatch.setattr(performance, "_play", ended_by(number))
    monkeypatch.setattr(performance, "end", lambda home, record: stopped.append(home.root))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 128 + number, result.output
    assert stopped == [tmp_path / "demo"]
    assert "steps" in json.loads((tmp_path / "demo.json").read_text())


class Refused:
    """A person whose submission ended without an award."""

    def get(self, path: str) -> dict[str, Any]:
        return {"path": path, "state": "suspicious", "award": None}


def test_a_gain_without_award_ends_the_demo_with_an_error_that_says_so(tmp_path: Path) -> None:
    record = Record(Console(quiet=True))
    people = cast("dict[str, Person]", {"grace": Refused(), "ruth": Refused()})
    stage = Stage("", Site("", ""), tmp_path, tmp_path, "", record, Progress(record.console), people)
    with pytest.raises(CliError, match=r"no award for grace \(suspicious\)"):
        scenario._pay(stage, "1")
    assert [step.ok for step in record.steps] == [False] and not record.ok


class Watched:
    """A person whose submission is confirmed, then drawn for a random re-measurement."""

    name = "grace"

    def __init__(self) -> None:
        verdict = {"kind": "gain", "reason": "Confirmed"}
        running = [{"kind": "recheck", "state": "measuring"}]
        common = {"verdict": verdict, "looks": 0}
        self._forms = [
            {"state": "being_judged", "stage": "being_judged", "verdict": None, "looks": 2},
            {"state": "confirmed", "stage": "confirmed: random re-measurement", "runs": running, **common},
            {"state": "confirmed", "stage": "confirmed", "runs": [], **common},
        ]

    def get(self, path: str) -> dict[str, Any]:
        return self._forms.pop(0)


def test_a_demo_says_that_its_gain_was_drawn_to_be_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_S", 0.0)
    out = io.StringIO()
    seen = watching.wait_for_verdict(cast("Person", Watched()), "1", Progress(Console(file=out)))
    assert seen["stage"] == "confirmed"
    assert [line.strip() for line in out.getvalue().splitlines()] == [
        "grace: being judged",
        "grace: confirmed: random re-measurement",
        "grace: confirmed",
    ]


def test_the_story_of_a_pull_request_ends_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "run_story", ended_by(signal.SIGTERM))
    assert story.main([]) == 128 + signal.SIGTERM
    asked: list[list[str]] = []
    monkeypatch.setattr(command, "run_program", lambda argv: asked.append(argv) or 143)
    assert CliRunner().invoke(app, ["demo", "--github"]).exit_code == 143
    assert asked[0][1:3] == ["-m", "bounty.github.demo"]
