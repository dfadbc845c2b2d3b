"""Figures for people, and which commit they are said to be of."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Report, Row, current_commit, machine_name, milliseconds, short
from model import kernel_ways
from model.kernel_ways import Rates
from tests.needs import needs_git


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


def test_times_are_shown_by_their_median_and_quartiles_in_milliseconds() -> None:
    assert milliseconds([0.004, 0.001, 0.003, 0.002, 0.1]) == "3 ms (1.5 .. 52)"


def test_a_table_and_its_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (
        Row("speed", 2.0, "x", "at least 3 x", False, "by hand"),
        Row("size", 7, "", "any", True, "by eye"),
        Row("colour", None, "nm", None, None, "not seen"),
    )
    made = Report("python -m any", "2026-01-02", "c" * 40 + "-dirty", "a machine", rows)
    made.show(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document.pop("rows") == [asdict(row) for row in rows]
    assert document == {
        "command": "python -m any",
        "date": "2026-01-02",
        "commit": "c" * 40 + "-dirty",
        "machine": "a machine",
    }
    made.show(as_json=False)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "speed 2 x at least 3 x no by hand" in shown
    assert "size 7 any yes by eye" in shown
    assert "colour - not seen" in shown
    assert f"2026-01-02 · commit {'c' * 12}-dirty · a machine" in shown


def test_a_commit_is_short_and_keeps_its_mark() -> None:
    assert (short(None), short("a" * 40), short("b" * 40 + "-dirty")) == (
        "none",
        "a" * 12,
        "b" * 12 + "-dirty",
    )


@needs_git
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


def test_the_machine_is_told_with_how_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(fma=159e9, dot=86e9, fp32_own=120e9, fp32_torch=142e9, bf16_own=130e9, bf16_torch=83e9)
    monkeypatch.delenv(kernel_ways.FORCED, raising=False)
    monkeypatch.setattr(kernel_ways, "measured", lambda _folder: rates)
    assert "(products of bf16 by fma: 159 GFLOP/s in fp32, 86 in bf16 pairs), " in machine_name()
    monkeypatch.setattr(kernel_ways, "measured", lambda _folder: None)
    assert "GFLOP/s" not in machine_name()


def test_figures_are_printed_where_a_way_is_forced_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(fma=102e9, dot=0, fp32_own=81e9, fp32_torch=86e9, bf16_own=78e9, bf16_torch=3e9)
    monkeypatch.setattr(kernel_ways, "measured", lambda _folder: rates)
    monkeypatch.setenv(kernel_ways.FORCED, "dot")
    assert "GAINSHARE_BF16 is 'dot'" in machine_name()
