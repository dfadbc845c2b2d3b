"""Figures for people, and which commit they are said to be of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Row, current_commit, short


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-0.0, "%", "0 %"),
        (None, "x", "-"),
        (3.14159, "x", "3.142 x"),
        (12_345.6, "", "12345.6"),
        ("equal", "", "equal"),
    ],
)
def test_a_figure_is_its_value_and_unit(value: float | str | None, unit: str, text: str) -> None:
    assert Row("any", value, unit, None, None, "").figure == text


def test_a_commit_is_short_and_keeps_its_mark() -> None:
    assert (short(None), short("a" * 40), short("b" * 40 + "-dirty")) == (
        "none",
        "a" * 12,
        "b" * 12 + "-dirty",
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="NO GIT HERE: commits are not named")
def test_figures_of_changed_files_are_not_a_commit_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(report, "__file__", str(tmp_path / "report.py"))
    assert current_commit() is None
    git("init", "-q")
    (tmp_path / "report.py").write_text("", encoding="utf-8")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "-a", "v1", "-m", "a name is no commit")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "beside").write_text("", encoding="utf-8")
    assert current_commit() == commit
    (tmp_path / "report.py").write_text("changed", encoding="utf-8")
    assert current_commit() == f"{commit}-dirty"
