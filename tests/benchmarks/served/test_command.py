"""`python -m benchmarks.served`: how many trees it deploys, and whether it measures the gain."""

from __future__ import annotations

import pytest

from benchmarks.report import Row
from benchmarks.served import __main__ as served

ROW = Row("row", 1, "", None, None, "")


@pytest.mark.parametrize(
    ("arguments", "deployments", "rows"),
    [
        ([], [20], 2),
        (["--quick"], [3], 1),
        (["--quick", "--deployments", "7"], [7], 1),
        (["--deployments", "1", "--model", "smollm2-moe"], [1], 2),
        (["--only", "deployments"], [20], 1),
        (["--only", "gain"], [], 1),
    ],
)
def test_as_many_trees_as_asked_for_and_the_gain_unless_quick(
    arguments: list[str],
    deployments: list[int],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(served, "_under_load", lambda model, count: asked.append(count) or [ROW])
    monkeypatch.setattr(served, "_of_the_gain", lambda: [ROW])
    assert served.main([*arguments, "--json"]) == 0
    assert asked == deployments
    assert capsys.readouterr().out.count('"name": "row"') == rows


def test_a_quick_run_has_no_gain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        served.main(["--only", "gain", "--quick"])
    assert end.value.code == 2 and "--quick leaves the gain's saving out" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-2", "many"])
def test_no_deployments_are_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        served.main(["--deployments", number])
    assert end.value.code == 2 and "--deployments" in capsys.readouterr().err
