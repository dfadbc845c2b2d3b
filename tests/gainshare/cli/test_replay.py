"""`gainshare replay`: one document of figures, seeded, without a site; what is wrong with a file is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_here import Command, error_of, lone_command

pytestmark = pytest.mark.slow


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return lone_command(monkeypatch, capfd, tmp_path / "home")


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    """A conversation that grows by a block at each of 20 turns."""
    path = tmp_path / "mooncake.jsonl"
    turns = [
        {
            "timestamp": 1000 * turn,
            "input_length": 512 * turn + 100,
            "output_length": 50,
            "hash_ids": [*range(turn), 1000 + turn],
        }
        for turn in range(1, 21)
    ]
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    return path


def figures(out: str) -> dict[str, Any]:
    document = json.loads(out)
    assert list(document) == ["command", "date", "commit", "machine", "rows"]
    return {row["name"]: row for row in document["rows"]}


def test_a_trace_is_billed_by_hand_and_by_command_alike(command: Command, mooncake: Path) -> None:
    status, out, _ = command("replay", str(mooncake), "--json", "--nodes", "1", "--prefill-rate", "1e6")
    assert status == 0
    found = figures(out)
    prompt = sum(512 * turn + 100 for turn in range(1, 21))
    cached = sum(512 * (turn - 1) for turn in range(1, 21))
    row = found["mooncake.jsonl: users' cost against flat per-token pricing"]
    assert f"flat {prompt * 4 + 20 * 50 * 16:,}, " in row["how"]
    assert row["target"] == "-35%"
    assert f"{cached / prompt:.1%} of the prompts' tokens" in found["mooncake.jsonl: part of cache"]["how"]
    assert found["mooncake.jsonl: reusable prompt tokens"]["value"] == round(100 * cached / prompt, 1)
    assert found["worst trace: users' cost against flat per-token pricing"]["how"].startswith(
        "mooncake.jsonl"
    )


def test_the_same_command_prints_the_same_figures(command: Command, mooncake: Path) -> None:
    arguments = ("replay", "--trace", str(mooncake), "--json", "--seed", "7", "--quick")
    first, second = (json.loads(command(*arguments)[1]) for _ in range(2))
    assert first["rows"] == second["rows"]
    assert first["command"].startswith("gainshare replay --trace")
    other = json.loads(command(*arguments[:-2], "8", "--quick")[1])
    assert other["rows"] != first["rows"], "another seed draws other hours"


def test_generated_traces_are_the_default(command: Command) -> None:
    status, out, _ = command("replay", "--quick", "--requests", "200", "--json")
    assert status == 0
    names = {name.split(":")[0] for name in figures(out) if name.endswith(": trace")}
    assert names == {"generated long-context (seed 0)", "generated conversation (seed 0)"}


def test_without_json_a_table_is_printed_and_progress_apart(command: Command, mooncake: Path) -> None:
    status, out, err = command("replay", str(mooncake), "--quick")
    assert status == 0
    assert "part of off-peak" in out
    assert "mooncake.jsonl: 20 requests" in err


def test_own_prices_and_rates_count(command: Command, mooncake: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    book.write_text('{"cached_input": 0, "fresh_input": 1000000, "output": 0}')
    rates = tmp_path / "rates.csv"
    rates.write_text("t_s,rate\n" + "".join(f"{hour * 3600},{int(hour == 3)}\n" for hour in range(24)))
    options = ("--prices", str(book), "--rates", str(rates), "--quick", "--json")
    status, out, _ = command("replay", str(mooncake), *options)
    found = figures(out)
    assert status == 0
    assert found["mooncake.jsonl: part of off-peak"]["value"] == 0
    assert "0 to 23 UTC: 0.0% 0.0% 0.0% 100.0%" in found["mooncake.jsonl: hours"]["how"]
    assert "hours drawn from rates.csv, seed 0" in found["mooncake.jsonl: hours"]["how"]
    assert found["discount of cache"]["value"] == 100


def test_a_plot_is_written(command: Command, mooncake: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    assert command("replay", str(mooncake), "--plot", str(plot), "--json")[0] == 0
    assert plot.read_text().startswith("<svg")
    status, out, _ = command("replay", str(mooncake), "--plot", str(plot), "--quick", "--json")
    assert (status, error_of(out)["code"]) == (2, "usage")


def test_nothing_to_plot_is_said(command: Command, tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    status, out, _ = command("replay", str(azure), "--plot", str(tmp_path / "p.svg"), "--json")
    assert (status, error_of(out)["code"]) == (2, "usage")
    assert "nothing to plot" in error_of(out)["message"]


@pytest.mark.parametrize("option", ["trace", "rates", "prices"])
def test_a_bad_file_is_named_with_what_to_do(command: Command, tmp_path: Path, option: str) -> None:
    path = tmp_path / "bad"
    path.write_text("t_s,rate\n0,1\n600,nan\n" if option != "prices" else "{}")
    status, out, err = command("replay", f"--{option}", str(path), "--json", "--quick")
    assert (status, error_of(out)["code"]) == (1, "malformed")
    assert str(path) in error_of(out)["message"]
    assert "Traceback" not in err


def test_a_missing_trace_is_refused(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("replay", str(tmp_path / "missing"), "--json")
    assert (status, error_of(out)["code"]) == (1, "malformed")
    assert "no such file" in error_of(out)["message"]
