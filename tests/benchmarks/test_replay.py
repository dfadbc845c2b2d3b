"""`python -m benchmarks.replay` runs the `gainshare` command, and puts the rows of several runs together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import replay as command
from benchmarks.claims import billing
from benchmarks.claims.bench import Bench
from benchmarks.report import MeasuringFailed, Row

pytestmark = pytest.mark.slow


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "turns.jsonl"
    turns = [
        {
            "timestamp": turn,
            "input_length": 512 * 9 + 1,
            "output_length": 5,
            "hash_ids": [*range(9), 100 + turn],
        }
        for turn in range(10)
    ]
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    return path


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text("t_s,rate\n" + "".join(f"{hour * 3600},{int(hour == 12)}\n" for hour in range(24)))
    return path


def test_a_trace_is_replayed_by_the_command(
    trace: Path, rates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--trace", str(trace), "--rates", str(rates), "--seed", "4", "--json"]
    assert command.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["command", "date", "commit", "machine", "rows"]
    assert document["command"].startswith("python -m benchmarks.replay --trace ")
    found = {one["name"]: one for one in document["rows"]}
    cost = found["turns.jsonl: users' cost against flat per-token pricing"]
    assert cost["holds"] is True and cost["target"] == "-35%"
    assert "seed 4" in found["turns.jsonl: hours"]["how"]
    assert found["turns.jsonl: part of off-peak"]["value"] == 0, "noon is not off-peak"
    cached = 9 * 9 * 512 / (10 * (512 * 9 + 1))
    assert found["turns.jsonl: reusable prompt tokens"]["value"] == round(100 * cached, 1)


def test_a_bad_trace_ends_in_a_line(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace.write_text('{"timestamp": -1}\n')
    assert command.main(["--trace", str(trace), "--quick"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{trace}, line 1: timestamp is not a number" in err
    assert "Traceback" not in err


def test_several_runs_have_one_worst_trace() -> None:
    def run(name: str, change: float) -> list[Row]:
        return [
            Row(f"{name}: cost", change, "%", "-35%", change <= -35, ""),
            Row(
                "worst trace: users' cost", change, "%", "-35%", change <= -35, f"{name}, of 1 with prefixes"
            ),
            Row("discount of cache", 90, "%", None, None, ""),
        ]

    found = command._merged([*run("a", -50), *run("b, of c", -20)])
    assert [(one.name, one.value, one.how) for one in found] == [
        ("a: cost", -50, ""),
        ("b, of c: cost", -20, ""),
        ("worst trace: users' cost", -20, "b, of c, of 2 with prefixes"),
        ("discount of cache", 90, ""),
    ]
    assert command._merged([]) == []


def test_the_claim_replays_the_given_traces_with_the_given_rates(
    trace: Path, rates: Path, tmp_path: Path
) -> None:
    assert billing.split([rates, trace]) == ([trace], rates)
    measured = billing.measure(Bench(tmp_path, traces=(trace, rates)), "quick")
    names = [one.name for one in measured.rows]
    assert names[0] == "turns.jsonl: users' cost against flat per-token pricing"
    assert "worst trace: users' cost against flat per-token pricing" in names
    assert "discount of off-peak" in names
    assert "turns.jsonl: hours" not in names
    assert all(one.how.endswith("; quick scale") for one in measured.rows)
    assert [one.name for one in measured.rows if one.target] == [names[0], names[-3]]


def test_a_missing_trace_of_the_claim_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasuringFailed, match=r"none\.csv cannot be read"):
        billing.split([tmp_path / "none.csv"])
