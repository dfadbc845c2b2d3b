"""Progress is shown without flooding: once a second and stage, and always at the ends."""

from __future__ import annotations

import time

import pytest

from model.progress_lines import ProgressLines


def line(stage: str, done: int, total: int | None) -> str:
    return f"{stage} {done} {total}"


def test_first_and_last_of_a_stage_are_shown_and_little_between(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    report = ProgressLines(line)
    for done, at in ((0, 100.0), (1, 100.5), (2, 101.1), (3, 101.2), (4, 101.3)):
        now[0] = at
        report("read", done, 4)
    report("write", 0, None)
    report("write", 1, None)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["read 0 4", "read 2 4", "read 4 4", "write 0 None"]
