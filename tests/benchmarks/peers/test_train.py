"""`python -m benchmarks.peers train` finds transformers where it is, and says what to do where it is not."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import train
from benchmarks.peers.__main__ import main
from benchmarks.peers.environments import MARK, PEERS
from benchmarks.peers.models import peers_home
from benchmarks.peers.train import OURS, THEIRS, drivers, their_python

PEER = PEERS["transformers"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the peers, on a machine whose own Python has no transformers."""
    usual = importlib.util.find_spec

    def without(name: str, *more: Any) -> ModuleSpec | None:
        return None if name == "transformers" else usual(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path))
    return peers_home()


def test_without_transformers_the_command_says_how_to_set_it_up(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--quick"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: there is nothing to compare with: transformers is neither installed here")
    assert str(home) in said and "`python -m benchmarks.peers train --setup`" in said
    assert "Traceback" not in said and not home.exists(), "it is said before anything is made"


def test_the_environment_that_setting_up_has_made_is_used(home: Path) -> None:
    python = home / "environments" / PEER.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    (home / "environments" / PEER.name / MARK).write_text(PEER.marked())
    assert their_python(home) == python
    argv = drivers(their_python(home))
    assert argv[THEIRS][0] == str(python) and argv[THEIRS][-1].endswith("transformers_train")
    assert argv[OURS][0] == sys.executable


def test_setting_up_comes_first_where_it_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def set_up(peer: object, folder: Path, _say: object) -> Path:
        asked.append((peer, folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "set_up", set_up)
    assert main(["train", "--quick", "--setup"]) == 130
    assert asked == [(PEER, home)]
