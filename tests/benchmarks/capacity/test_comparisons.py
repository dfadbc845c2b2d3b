"""`python -m benchmarks.capacity`: which simulations it runs, and that it runs the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.capacity import __main__ as command
from benchmarks.capacity.comparisons import Comparison, Traces, comparisons, measure, nearest_day
from benchmarks.capacity.simulated import simulated
from benchmarks.claims import autoscaling
from benchmarks.claims.bench import Bench
from benchmarks.report import MeasuringFailed, Row

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind; the second of two days has its peak at twice its mean."""
    day = 144
    rates = [1.0] * day + [1.0] * (day - 1) + [2.0]
    found = {name: tmp_path / name for name in ("rates.csv", "azure.csv", "mooncake.jsonl")}
    lines = [f"{600 * step},{rate}" for step, rate in enumerate(rates)]
    found["rates.csv"].write_text("t_s,rate\n" + "\n".join(lines) + "\n")
    found["azure.csv"].write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:15:{n:02d}.0000000,{200 + n},{20 + n}\n" for n in range(60))
    )
    found["mooncake.jsonl"].write_text(
        "".join(
            json.dumps(
                {
                    "timestamp": 400 * n,
                    "input_length": 1000,
                    "output_length": 9,
                    "hash_ids": [n % 5, 50 + n % 9],
                }
            )
            + "\n"
            for n in range(200)
        )
    )
    return found


def test_traces_are_told_apart_by_their_first_line(files: dict[str, Path], tmp_path: Path) -> None:
    found = Traces.of(list(files.values()))
    assert found == Traces(files["rates.csv"], files["azure.csv"], files["mooncake.jsonl"])
    other = tmp_path / "other"
    other.write_text("what\n")
    with pytest.raises(MeasuringFailed, match=r"other is none of the known traces"):
        Traces.of([other])
    with pytest.raises(MeasuringFailed, match=r"gone cannot be read: No such file"):
        Traces.of([tmp_path / "gone"])


def test_the_day_nearest_to_the_ratio_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    assert nearest_day(files["rates.csv"]) == (1, pytest.approx((143 + 2) / 144 / 2))
    with pytest.raises(MeasuringFailed, match="holds no rates"):
        nearest_day(files["azure.csv"])


def test_the_full_run_has_all_that_the_claim_names(files: dict[str, Path]) -> None:
    found = comparisons(Traces.of(list(files.values())), quick=False)
    texts = {one.label: " ".join(one.arguments) for one in found}
    for kind, lengths in (("conversations", "azure.csv"), ("long context", "mooncake.jsonl")):
        for name, cv in (("Poisson", "1"), ("bursty", "2")):
            text = texts[f"{kind}, {name}"]
            assert f"--lengths {files[lengths]}" in text
            assert f"--cv {cv} --cold-start 20 --cold-start 120 --cold-start 300 --tuned" in text
            assert "--requests 1000000" in text
    assert "--only-day 1" in texts["day 1, mean/peak 0.50"]
    assert "--cold-start 20" in texts["day 1, mean/peak 0.50"]
    assert texts["routing"].startswith(f"{files['mooncake.jsonl']} --routing")
    without = comparisons(Traces(), quick=False)
    assert all("generated" in one.arguments for one in without)
    assert len(comparisons(Traces(), quick=True)) < len(without)


def test_rows_of_real_simulations_have_their_comparison_in_front(files: dict[str, Path]) -> None:
    chosen = [
        Comparison("one", (str(files["azure.csv"]), "--nodes", "4")),
        Comparison("two", (str(files["mooncake.jsonl"]), "--routing", "--class", "standard,speed=4")),
    ]
    rows = measure(chosen)
    names = [row.name for row in rows]
    assert names[0] == "one: requests"
    assert "one: first token, p99" in names
    assert "two: prefix-aware: prompt tokens from the cache" in names


def test_what_the_command_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(MeasuringFailed, match=r"gainshare simulate: unknown policy best: choose of kpa, hpa"):
        simulated(["generated", "--policy", "best"])


def test_a_quick_run_prints_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: dict[str, Path]
) -> None:
    real = comparisons(Traces(), quick=True)
    assert {one.label for one in real} >= {"conversations, Poisson", "a day", "routing"}
    monkeypatch.setattr(
        command, "comparisons", lambda traces, quick: [one for one in real if one.label == "routing"]
    )
    assert command.main(["--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["command", "date", "commit", "machine", "rows"]
    assert document["command"] == "python -m benchmarks.capacity --quick"
    assert {row["name"].split(":")[0] for row in document["rows"]} == {"routing"}


def row(name: str, value: float | None, holds: bool | None = None) -> Row:
    return Row(name, value, "%", "cheaper" if holds is not None else None, holds, "how")


def test_the_claim_shows_ours_and_what_it_is_compared_with() -> None:
    rows = [
        row("conversations, Poisson: requests", 5),
        row("conversations, Poisson: cold start 20 s: smallest fixed fleet", 4),
        row("conversations, Poisson: cold start 20 s: hpa, tuned", -8.0),
        row("conversations, Poisson: cold start 20 s: forecast", -20.0, True),
        row("conversations, Poisson: cold start 120 s: forecast", 1.5, False),
        row("conversations, Poisson: cold start 120 s: saved, beside the bound", -1.5),
    ]
    found = autoscaling.decide(rows, "full")
    assert [(one.value, one.holds) for one in found] == [(4, None), (-8.0, None), (-20.0, True), (1.5, False)]
    assert all(one.how == "how; simulated; full scale" for one in found)
    figure = autoscaling._figure(rows)
    assert figure is not None
    assert [(curve.name, curve.xs, curve.ys) for curve in figure.curves] == [
        ("hpa, tuned", [20.0], [-8.0]),
        ("forecast", [20.0, 120.0], [-20.0, 1.5]),
    ]


def test_the_claim_takes_the_traces_that_are_given(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Path], tmp_path: Path
) -> None:
    asked: list[Comparison] = []
    monkeypatch.setattr(autoscaling, "measure", lambda chosen: asked.extend(chosen) or [])
    given = Bench(tmp_path, say=lambda _text: None, traces=tuple(files.values()))
    autoscaling.CLAIM.measure(given, "full")
    assert [one.label for one in asked] == ["conversations, Poisson", "conversations, bursty"]
    for one in asked:
        assert one.arguments[0] == str(files["rates.csv"])
        assert f"--lengths {files['azure.csv']}" in " ".join(one.arguments)
    asked.clear()
    autoscaling.CLAIM.measure(Bench(tmp_path, say=lambda _text: None), "full")
    assert {one.arguments[0] for one in asked} == {"generated"}


def test_the_claim_is_measured_with_the_real_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = Comparison("conversations, Poisson", ("generated", "--days", "0.1", "--policy", "forecast"))
    monkeypatch.setattr(autoscaling, "chosen", lambda _files, _scale: [short])
    found = autoscaling.CLAIM.measure(Bench(tmp_path, say=lambda _text: None), "quick")
    names = [one.name for one in found.rows]
    assert "conversations, Poisson: cold start 120 s: forecast" in names
    assert found.figures == []
