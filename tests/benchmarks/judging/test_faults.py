"""Fault points kill for real, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import fault_point

PROGRAM = "from benchmarks.faults import fault_point; fault_point('runner.leased'); print('went on')"


def run(folder: Path | None, armed: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GAINSHARE_FAULT")}
    if armed is not None:
        env["GAINSHARE_FAULT"] = armed
    if folder is not None:
        env["GAINSHARE_FAULT_DIR"] = str(folder)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False
    )


def test_armed_fault_kills_the_first_process_and_lets_the_next_pass(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "control.award, runner.leased") for _ in range(2))
    assert first.returncode == -9
    assert first.stdout == ""
    assert (second.returncode, second.stdout) == (0, "went on\n")
    assert (tmp_path / "runner.leased").read_text().strip().isdigit()
    assert not (tmp_path / "control.award").exists()


def test_another_name_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "runner.lease").stdout == "went on\n"
    assert list(tmp_path.iterdir()) == []


def test_armed_fault_without_a_folder_is_an_error() -> None:
    failed = run(None, "runner.leased")
    assert failed.returncode == 1
    assert "GAINSHARE_FAULT_DIR" in failed.stderr


def test_unarmed_fault_point_does_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, None).stdout == "went on\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a.", "a b"])
def test_a_name_that_is_no_marker_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="fault point"):
        fault_point(name)
