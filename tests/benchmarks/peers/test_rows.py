"""From answers to rows, and the command line around it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import serve, serve_rows, train
from benchmarks.peers.contenders import CONTENDERS, available
from benchmarks.peers.environments import PEERS
from benchmarks.peers.models import QWEN3_MOE_22M, QWEN3_MOE_186M, random_model
from benchmarks.peers.serve_rows import Measured
from benchmarks.peers.targets import CLASSES
from benchmarks.report import MeasuringFailed, Row

MS = 1_000_000
CELL = train.Cell(QWEN3_MOE_22M, 2, 100, "fp32")
CHOSEN = {
    "transformers": "5.24",
    "chosen": "grouped_mm",
    "seconds": {"eager": 2.0, "grouped_mm": 1.0},
    "refused": {"batched_mm": "would gather 12 GiB of weights"},
}


def steps(ns: list[int], losses: list[float]) -> list[dict[str, Any]]:
    return [{"ns": each, "loss": loss} for each, loss in zip(ns, losses, strict=True)]


def training_rows(ours: list[float], theirs: list[float]) -> dict[str, Row]:
    answers = {
        "ours": steps([100 * MS, 120 * MS, 100 * MS], ours),
        "transformers": steps([250 * MS, 240 * MS, 260 * MS], theirs),
    }
    return {row.name: row for row in train.rows_of(CELL, answers, CHOSEN, peak=1e11)}


def test_training_rows_give_the_ratio_both_speeds_and_the_losses() -> None:
    rows = training_rows([9.0, 8.0, 7.0], [9.0, 8.00005, 7.0])
    ratio = rows["train, ours over transformers: qwen3-moe-22m, 2 x 100 tokens, fp32"]
    assert (ratio.value, ratio.holds) == (2.5, True)
    assert "grouped_mm" in ratio.how
    assert "would gather 12 GiB" in ratio.how
    speed = rows["train, ours: qwen3-moe-22m, 2 x 100 tokens, fp32"]
    assert speed.value == pytest.approx(2000)
    share = 2000 * (6 * QWEN3_MOE_22M.active_parameters + 6 * 6 * 4 * 64 * 2 * 50.5) / 1e11
    assert f"{100 * share:.0f} % of the roofline" in speed.how
    losses = rows["train, losses apart: qwen3-moe-22m, 2 x 100 tokens, fp32"]
    assert losses.value == pytest.approx(5e-5)
    assert losses.holds


def test_losses_that_differ_are_said() -> None:
    rows = training_rows([9.0, 8.0, 7.0], [9.0, 8.1, 7.0])
    assert rows["train, losses apart: qwen3-moe-22m, 2 x 100 tokens, fp32"].holds is False


def reply(times: list[list[int]], **more: Any) -> dict[str, Any]:
    requests = [
        {"submitted_ns": 0, "times_ns": [at * MS for at in each], "tokens": list(range(len(each)))}
        for each in times
    ]
    return {"requests": requests, **more}


@pytest.fixture
def found(tmp_path: Path) -> Measured:
    measured = Measured(random_model(QWEN3_MOE_186M, tmp_path))
    measured.contenders = {each.name: each for each in CONTENDERS}
    measured.loaded = {
        each.name: {"version": "1", "load_s": 2.0, "resident_bytes": 3 << 20} for each in CONTENDERS
    }
    measured.bandwidth = dict.fromkeys(CLASSES, 2e10)
    measured.gemm = 2e11
    pace = {
        "ours bf16": 6,
        "ours int8": 4,
        "ours int8-dynamic": 4,
        "transformers bf16": 36,
        "vllm bf16": 15,
        "llama.cpp f16": 8,
        "llama.cpp bf16": 9,
        "llama.cpp q8_0": 5,
        "ik_llama.cpp f16": 10,
        "ik_llama.cpp bf16": 7,
        "ik_llama.cpp q8_0": 6,
    }
    measured.answers = {
        "prefill 512": {name: [reply([[40 * ms]])] * 2 for name, ms in pace.items()},
        "decode B1": {name: [reply([[ms * n for n in range(1, 11)]])] * 2 for name, ms in pace.items()},
        "decode B16": {
            name: [
                reply(
                    [[ms * n for n in range(1, 11)]] * 16,
                    executor_ns=90 * MS,
                    scheduling_ns=3 * MS,
                    busy_ns=100 * MS,
                    steps=10,
                )
            ]
            * 2
            for name, ms in pace.items()
        },
    }
    measured.answers["decode B16"]["vllm bf16"] = []  # it has failed
    measured.prompt_tokens = {"decode B1": [[32], [32]]}
    measured.prefix = {"ours bf16": [(reply([[100]]), reply([[10]]))], "ours int8": []}
    return measured


def test_serving_rows_hold_ours_against_each_peers_best_of_equal_width(found: Measured) -> None:
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    best = rows["serve, ours bf16 over llama.cpp f16: qwen3-moe-186m, decode B1"]
    assert (best.value, best.holds) == (1.33, True)
    assert "serve, ours bf16 over llama.cpp bf16: qwen3-moe-186m, decode B1" not in rows
    assert rows["serve, ours bf16 over ik_llama.cpp bf16: qwen3-moe-186m, decode B1"].value == 1.17
    assert rows["serve, ours bf16 over transformers bf16: qwen3-moe-186m, decode B1"].value == 6.0
    assert rows["serve, ours int8 over llama.cpp q8_0: qwen3-moe-186m, decode B1"].value == 1.25
    assert not any("ours int8 over vllm" in name for name in rows)
    assert rows["serve, vllm bf16: qwen3-moe-186m, decode B1"].value == pytest.approx(1000 / 15, abs=0.1)
    assert rows["serve, loading vllm bf16: qwen3-moe-186m"].value == 2.0


def test_loading_is_held_against_the_best_peer_of_equal_width(found: Measured) -> None:
    for name, load_s, mib in (
        ("ours bf16", 1.5, 4),
        ("transformers bf16", 2.5, 3),
        ("llama.cpp f16", 1.75, 5),
        ("ours int8", 3, 1),
    ):
        found.loaded[name] = {"version": "1", "load_s": load_s, "resident_bytes": mib << 20}
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    time = rows["serve, loading ours bf16: qwen3-moe-186m"]
    assert (time.value, time.unit, time.target, time.holds) == (1.5, "s", "< 1.75 s (llama.cpp f16)", True)
    memory = rows["serve, memory after loading ours bf16: qwen3-moe-186m"]
    assert (memory.value, memory.target, memory.holds) == (4, "< 3 MiB (transformers bf16)", False)
    assert rows["serve, loading ours int8: qwen3-moe-186m"].target == "< 2 s (llama.cpp q8_0)"
    assert rows["serve, loading ours int8: qwen3-moe-186m"].holds is False
    assert rows["serve, loading ours int8-dynamic: qwen3-moe-186m"].holds is False, "as long is not faster"
    assert rows["serve, loading llama.cpp f16: qwen3-moe-186m"].target is None


def test_a_first_load_and_memory_after_the_workloads_are_for_information(found: Measured) -> None:
    found.first_loaded["ours bf16"] = {"version": "1", "load_s": 1.256, "resident_bytes": 3 << 20}
    found.resident = {"ours bf16": 5 << 20, "llama.cpp f16": 7 << 20, "vllm bf16": None}
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    first = rows["serve, first loading ours bf16: qwen3-moe-186m"]
    assert (first.value, first.unit, first.target) == (1.26, "s", None)
    after = {name: row.value for name, row in rows.items() if "after the workloads" in name}
    assert after == {
        "serve, memory after the workloads ours bf16: qwen3-moe-186m": 5,
        "serve, memory after the workloads llama.cpp f16: qwen3-moe-186m": 7,
    }
    assert not any("first loading" in name and "ours bf16" not in name for name in rows)


def test_loading_without_peers_is_for_information(found: Measured) -> None:
    found.loaded = {"ours bf16": found.loaded["ours bf16"], "llama.cpp q8_0": found.loaded["llama.cpp q8_0"]}
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    assert rows["serve, loading ours bf16: qwen3-moe-186m"].holds is None


def test_a_side_without_answers_has_no_row(found: Measured) -> None:
    names = {row.name for row in serve_rows.rows_of(found)}
    assert "serve, vllm bf16: qwen3-moe-186m, decode B16" not in names
    assert not any("over vllm" in name and "B16" in name for name in names)
    assert "serve, ours bf16: qwen3-moe-186m, decode B16" in names


def test_an_engine_that_kept_requests_waiting_until_others_had_ended_has_no_rate(found: Measured) -> None:
    one_by_one = reply([[10 * n for n in range(1, 5)], [10 * n for n in range(6, 9)]])
    found.answers["decode B16"]["llama.cpp f16"] = [one_by_one]
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    row = rows["serve, llama.cpp f16: qwen3-moe-186m, decode B16"]
    assert row.value is None
    assert "never all decoding" in row.how
    assert "serve, ours bf16 over llama.cpp bf16: qwen3-moe-186m, decode B16" in rows


def test_shares_of_the_rooflines_come_from_the_peaks_of_the_run(found: Measured) -> None:
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    cache = 2 * 6 * 8 * 64 * 37 * 2
    floor_s = (2 * QWEN3_MOE_186M.active_parameters + cache) / 2e10
    share = rows["serve, roofline of ours bf16: qwen3-moe-186m, decode B1"]
    assert share.value == pytest.approx(floor_s / 0.006, abs=1e-3)
    assert share.holds
    assert rows["serve, roofline of vllm bf16: qwen3-moe-186m, decode B1"].holds is None
    assert rows["serve, roofline of ours bf16: qwen3-moe-186m, prefill 512"].target == ">= 0.75"
    assert "serve, roofline of ours int8: qwen3-moe-186m, prefill 512" not in rows


def test_our_engines_own_rows(found: Measured) -> None:
    rows = {row.name: row for row in serve_rows.rows_of(found)}
    prefix = rows["serve, first token on a prefix hit over a miss, ours bf16: qwen3-moe-186m"]
    assert (prefix.value, prefix.holds) == (0.1, True)
    scheduling = rows["serve, scheduling over a step, ours bf16: qwen3-moe-186m, decode B16"]
    assert (scheduling.value, scheduling.holds) == (0.03, True)
    assert "steps of 10.0 ms" in scheduling.how
    assert "0.1 (0.1 to 0.1, 2 turns) of a step" in scheduling.how
    assert not any("prefix hit" in name and "int8" in name for name in rows)


def test_only_peers_that_are_set_up_take_part(tmp_path: Path) -> None:
    said: list[str] = []
    engines = {each.engine for each in available(tmp_path, said.append)}
    assert engines == {"ours", "transformers"}
    assert sum("--setup" in line for line in said) == 7


def test_each_contender_has_a_driver_and_each_peer_a_contender() -> None:
    assert {each.peer for each in CONTENDERS if each.peer is not None} == set(PEERS)
    for each in CONTENDERS:
        assert importlib.util.find_spec(f"benchmarks.peers.drivers.{each.module}") is not None


def test_llama_cpp_and_its_fork_read_the_same_gguf_files(tmp_path: Path) -> None:
    model = random_model(QWEN3_MOE_22M, tmp_path)
    paths = {each.name: each.path(model) for each in CONTENDERS}
    assert paths["ik_llama.cpp q8_0"] == paths["llama.cpp q8_0"] == model.gguf("q8_0")
    assert {path for name, path in paths.items() if "llama.cpp" not in name} == {model.hf}


def test_the_command_prints_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, bool]] = []

    def measure(**options: bool) -> list[Row]:
        asked.append(options)
        return [Row("speed", 2.0, "x", ">= 2x", True, "how")]

    monkeypatch.setattr(serve, "measure", measure)
    monkeypatch.setattr(train, "measure", measure)
    assert command.main(["serve", "--json", "--setup"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "python -m benchmarks.peers serve"
    assert document["rows"][0]["name"] == "speed"
    assert command.main(["train", "--quick"]) == 0
    assert "python -m benchmarks.peers train --quick" in capsys.readouterr().out
    assert asked == [{"quick": False, "setup": True}, {"quick": True, "setup": False}]


def test_what_cannot_be_measured_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(**options: bool) -> list[Row]:
        raise MeasuringFailed("no engine could be loaded")

    monkeypatch.setattr(serve, "measure", measure)
    assert command.main(["serve"]) == 1
    assert "error: no engine could be loaded" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([])
