"""Environments of peers: made once, gone on with, made again for another version, and clear where they cannot be made.

A shell script is where an environment's Python would be: it writes down what it was asked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.environments import MARK, PEERS, Peer, SetupFailed, interpreter, set_up, set_up_all

PEER = Peer(
    "engine", ("engine==1.0", "torch<3"), "engine", removed=("torchaudio",), env=(("CMAKE_ARGS", "-DX=ON"),)
)


def python_in(home: Path, peer: Peer, script: str = "") -> Path:
    python = home / "environments" / peer.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$CMAKE_ARGS $*" >> {home}/asked\n{script}\n')
    python.chmod(0o755)
    return python


def asked(home: Path) -> list[str]:
    return (home / "asked").read_text().splitlines()


def test_setting_up_installs_removes_imports_and_marks(tmp_path: Path) -> None:
    python, said = python_in(tmp_path, PEER, 'echo "Collecting engine"'), []
    assert interpreter(PEER, tmp_path) is None
    assert set_up(PEER, tmp_path, said.append) == python
    install, remove, trial = asked(tmp_path)
    assert install == "-DX=ON -m pip install --progress-bar off engine==1.0 torch<3"
    assert remove == "-DX=ON -m pip uninstall --yes torchaudio"
    assert trial == "-DX=ON -c import engine"
    assert "engine: Collecting engine" in said
    assert interpreter(PEER, tmp_path) == python
    set_up(PEER, tmp_path, said.append)
    assert len(asked(tmp_path)) == 3
    assert "set up already" in said[-1]


def test_another_version_is_set_up_again(tmp_path: Path) -> None:
    python_in(tmp_path, PEER)
    set_up(PEER, tmp_path, lambda text: None)
    newer = Peer("engine", ("engine==2.0",), "engine")
    assert interpreter(newer, tmp_path) is None
    set_up(newer, tmp_path, lambda text: None)
    assert interpreter(newer, tmp_path) is not None
    assert interpreter(PEER, tmp_path) is None


def test_what_the_network_refuses_is_said_and_not_marked(tmp_path: Path) -> None:
    python_in(tmp_path, PEER, 'echo "ERROR: No matching distribution found for engine"; exit 1')
    with pytest.raises(
        SetupFailed, match=r"status 1: .*No matching distribution.*run the same command again"
    ):
        set_up(PEER, tmp_path, lambda text: None)
    assert not (tmp_path / "environments" / "engine" / MARK).exists()
    assert interpreter(PEER, tmp_path) is None


def test_an_environment_that_cannot_import_its_peer_is_not_complete(tmp_path: Path) -> None:
    python_in(tmp_path, PEER, 'case "$1" in -c) echo "ImportError: libtorch"; exit 1;; esac')
    with pytest.raises(SetupFailed, match="ImportError: libtorch"):
        set_up(PEER, tmp_path, lambda text: None)
    assert interpreter(PEER, tmp_path) is None


def test_transformers_is_this_interpreters_own(tmp_path: Path) -> None:
    assert interpreter(PEERS["transformers"], tmp_path) == Path(sys.executable)


def test_peers_that_cannot_be_set_up_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Peer("good", ("good",), "good"), Peer("bad", ("bad",), "bad")
    python_in(tmp_path, good)
    python_in(tmp_path, bad, "exit 1")
    monkeypatch.setattr("benchmarks.peers.environments.PEERS", {"bad": bad, "good": good})
    said: list[str] = []
    assert list(set_up_all(tmp_path, said.append)) == ["good"]
    assert any(line.startswith("bad is left out") for line in said)
