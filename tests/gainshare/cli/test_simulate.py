"""`gainshare simulate`: one document for programs, equal figures for equal seeds, and errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gainshare.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Status, standard output, and standard error of the command. Neither database nor site is there."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gainshare", "simulate", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capfd.readouterr())

    return command


SHORT = ("generated", "--days", "0.05", "--requests", "4000")


def rows_of(out: str) -> dict[str, Any]:
    document = json.loads(out)
    assert list(document) == ["command", "date", "commit", "machine", "rows"]
    return {row["name"]: row for row in document["rows"]}


def test_a_comparison_is_one_document_with_the_command_that_made_it(run: Any) -> None:
    status, out, err = run(*SHORT, "--cold-start", "20", "--seed", "3", "--json")
    assert status == 0, err
    rows = rows_of(out)
    assert json.loads(out)["command"] == (
        "gainshare simulate generated --days 0.05 --requests 4000 --cold-start 20 --seed 3"
    )
    assert {
        "cold start 20 s: kpa",
        "cold start 20 s: hpa",
        "cold start 20 s: ray",
        "cold start 20 s: forecast",
    } <= set(rows)
    assert rows["cold start 20 s: smallest fixed fleet"]["unit"] == "nodes"
    assert "qwen3-moe-186m" in rows["prompt tokens a second, calibrated"]["how"]
    assert "fixed fleet of" in err


def test_equal_seeds_give_equal_figures_and_others_do_not(run: Any) -> None:
    first = json.loads(run(*SHORT, "--policy", "forecast", "--json")[1])["rows"]
    again = json.loads(run(*SHORT, "--policy", "forecast", "--json")[1])["rows"]
    other = json.loads(run(*SHORT, "--policy", "forecast", "--seed", "1", "--json")[1])["rows"]
    assert first == again
    assert first != other


def test_a_fixed_fleet_alone_a_table_and_a_plot(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "plot.svg"
    status, out, err = run(*SHORT, "--nodes", "5", "--plot", str(file))
    assert status == 0, err
    assert "first token, p99" in out
    assert f"wrote {file}" in err
    drawn = file.read_text(encoding="utf-8")
    assert "<svg" in drawn
    assert "nodes that cost" in drawn
    assert "requests in progress and waiting" in drawn


def test_rates_with_the_lengths_of_another_trace_and_one_of_their_days(run: Any, tmp_path: Path) -> None:
    rates, lengths = tmp_path / "rates.csv", tmp_path / "azure.csv"
    steps = [f"{3600 * hour},{1 + hour % 24 // 12}" for hour in range(48)]
    rates.write_text("t_s,rate\n" + "\n".join(steps) + "\n")
    lengths.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:00.0000000,100,7\n2023-11-16 18:15:09.0000000,300,9\n"
    )
    status, out, err = run(
        str(rates),
        "--lengths",
        str(lengths),
        "--requests",
        "3000",
        "--only-day",
        "1",
        "--policy",
        "forecast",
        "--json",
    )
    assert status == 0, err
    rows = rows_of(out)
    assert "200 prompt and 8 output tokens on average" in rows["requests"]["how"]
    assert "rates.csv, day 1" in rows["requests"]["how"]
    bound = rows["cold start 120 s: saved, beside the bound"]
    assert bound["how"] == "bound 1 - mean/peak = 25.0 % (mean/peak 0.75)"


def test_ways_of_routing_are_compared_for_traces_with_prefixes(run: Any) -> None:
    long = ("generated", "--workload", "long-context", "--days", "0.02", "--requests", "900")
    status, out, err = run(*long, "--routing", "--class", "fast,speed=40", "--json")
    assert status == 0, err
    names = [name for name in rows_of(out) if name.endswith("from the cache")]
    assert [name.split(":")[0] for name in names] == ["round robin", "least-loaded", "prefix-aware"]


def test_a_budget_is_kept(run: Any) -> None:
    status, out, err = run(*SHORT, "--policy", "forecast", "--budget", "9", "--class", "a,price=2", "--json")
    assert status == 0, err
    assert rows_of(out)["cold start 120 s: forecast"]["how"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-file.csv",), "no-such-file.csv"),
        ((*SHORT, "--policy", "fixed"), "unknown policy fixed: choose of kpa, hpa, ray, forecast"),
        ((*SHORT, "--workload", "odd"), "unknown workload 'odd': choose of long-context, conversation"),
        ((*SHORT, "--format", "xml"), "unknown format 'xml': choose of auto, mooncake, azure, rates"),
        (
            (*SHORT, "--class", "a,cost=3"),
            "--class 'a,cost=3' cannot be read: give a name, then any of cold, lifetime",
        ),
        ((*SHORT, "--class", "a,price=x"), "has a value that is not a number"),
        ((*SHORT, "--class", "a,price=nan"), "has a value that is not finite"),
        ((*SHORT, "--class", "a,speed=0"), "price, speed and lifetime must be above zero"),
        ((*SHORT, "--class", "a,max=0"), "max must be 1 to 4096"),
        ((*SHORT, "--class", "a", "--class", "a"), "two classes have the same name"),
        ((*SHORT, "--class", "a,max=1"), "no fixed fleet of up to 1 nodes meets"),
        (("generated", "--days", "0.01", "--routing", "--nodes", "0"), "--nodes"),
        ((*SHORT, "--calibration", "no-such.json"), "no-such.json"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run: Any, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = run(*arguments, "--json")
    assert status in (1, 2)
    error = json.loads(out)["error"]
    assert said in error["message"]
    assert "Traceback" not in err


def test_a_trace_without_prefixes_has_no_routing_to_compare(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "azure.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:00.0000000,100,7\n")
    status, out, _ = run(str(file), "--routing", "--json")
    assert status == 2
    assert "says nothing of prefixes" in json.loads(out)["error"]["message"]
