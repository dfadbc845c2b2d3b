"""Runs whose file leaves the precision open: what is measured, what is said, and what a resumed run keeps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.data.batches.batch import Batch
from model.layers.linear import linear
from model.training.config.run_config import RunConfig
from model.training.optim.precision import Precision
from model.training.report.events import Noticed, Started
from model.training.report.log import read_log
from model.training.report.product_rates import ProductRates
from model.training.run import checkpoints as checkpoints_module
from model.training.run import setup
from model.training.run.engine import OneProcess
from model.training.run.setup import precision_for
from tests.model.training.run.training_runs import (
    data_for,
    equal_states,
    losses,
    packed_batch,
    run,
    run_config,
)

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]
CPU = torch.device("cpu")
RATES = {"fp32": ProductRates(fp32=60e9, bf16=40e9), "bf16": ProductRates(fp32=40e9, bf16=60e9)}


class Machine:
    """The machine's rates as a test sets them, and the arguments of each measurement."""

    def __init__(self) -> None:
        self.rates = RATES["fp32"]
        self.calls: list[tuple[int, Callable[..., Any]]] = []

    def measure(self, rows: int, *, multiply: Callable[..., Any]) -> ProductRates:
        self.calls.append((rows, multiply))
        return self.rates


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(setup, "measure_product_rates", found.measure)
    return found


def open_run(output: Path, precision: str = "auto", **tables: Any) -> RunConfig:
    return run_config(output, compute={"precision": precision}, **tables)


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_a_new_run_takes_the_faster_precision_and_says_why(
    tmp_path: Path, machine: Machine, faster: Precision
) -> None:
    machine.rates = RATES[faster]
    config = open_run(tmp_path / "open")
    _, seen = run(config)
    [started] = seen.of(Started)
    assert started.machine["precision"] == faster
    other = "bf16" if faster == "fp32" else "fp32"
    assert started.precision_reason == f"products of one thread reach 60 GFLOP/s, against 40 in {other}"
    assert started.config["compute"]["precision"] == "auto"
    [row] = read_log(config.output / "log.jsonl", "started")
    assert (row["machine"]["precision"], row["precision_reason"]) == (faster, started.precision_reason)
    assert seen.of(Noticed) == [] and len(machine.calls) == 1
    _, named = run(open_run(tmp_path / "named", faster))
    assert named.of(Started)[0].precision_reason is None and len(machine.calls) == 1
    assert losses(seen.events) == losses(named.events)
    assert equal_states(tmp_path / "open", tmp_path / "named")


@pytest.mark.parametrize("first", ["fp32", "bf16"])
def test_a_resumed_run_keeps_its_precision_bit_for_bit(
    tmp_path: Path, machine: Machine, first: Precision
) -> None:
    machine.rates = RATES[first]
    straight, stopped = open_run(tmp_path / "straight"), open_run(tmp_path / "stopped")
    _, whole = run(straight)
    _, before = run(stopped, stop_at=3)
    n_calls = len(machine.calls)
    machine.rates = RATES["fp32" if first == "bf16" else "bf16"]
    _, after = run(stopped, is_resumed=True)
    assert len(machine.calls) == n_calls, "nothing is measured for a run that continues"
    [started] = after.of(Started)
    assert started.machine["precision"] == first
    assert started.precision_reason == "the checkpoint was made in it"
    assert after.of(Noticed) == []
    assert losses(before.events) + losses(after.events) == losses(whole.events)
    assert equal_states(straight.output, stopped.output)


def test_a_run_keeps_the_precision_of_the_checkpoint_that_it_continues_from(
    tmp_path: Path, machine: Machine
) -> None:
    """Not that of a newer one which is damaged."""
    run(open_run(tmp_path, "fp32"), stop_at=2)
    run(open_run(tmp_path, "bf16"), is_resumed=True, stop_at=4)
    file = tmp_path / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    _, seen = run(open_run(tmp_path), is_resumed=True)
    [started] = seen.of(Started)
    assert (started.step, started.machine["precision"]) == (2, "fp32") and machine.calls == []


def test_a_file_that_names_a_precision_changes_a_run_s_and_auto_keeps_that(
    tmp_path: Path, machine: Machine
) -> None:
    run(open_run(tmp_path), stop_at=1)
    _, named = run(open_run(tmp_path, "bf16"), is_resumed=True, stop_at=2)
    assert named.of(Started)[0].machine["precision"] == "bf16"
    assert any("another precision" in event.message for event in named.of(Noticed))
    _, kept = run(open_run(tmp_path), is_resumed=True, stop_at=3)
    assert kept.of(Started)[0].machine["precision"] == "bf16"
    assert [event.message for event in kept.of(Noticed)] == [
        "compute.precision was 'bf16' and is 'auto' from here on"
    ]
    assert len(machine.calls) == 1


def saved_in(output: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the run's only checkpoint says about its machine."""
    [file] = (output / "checkpoints").glob("*/state.json")
    document = json.loads(file.read_text())
    change(document["facts"]["run"])
    document["facts_sha256"] = checkpoints_module._facts_hash(document["facts"])
    file.write_text(json.dumps(document))


def test_a_checkpoint_in_fp16_continues_on_a_cpu_with_a_notice(tmp_path: Path, machine: Machine) -> None:
    run(open_run(tmp_path), stop_at=1)
    saved_in(tmp_path, lambda facts: facts["machine"].update(precision="fp16", device="a GPU"))
    machine.rates = RATES["bf16"]
    _, seen = run(open_run(tmp_path), is_resumed=True, stop_at=2)
    [started] = seen.of(Started)
    assert started.machine["precision"] == "bf16" and "60 GFLOP/s" in str(started.precision_reason)
    first, second = (event.message for event in seen.of(Noticed))
    assert first.startswith("the checkpoint was made in fp16, but") and "continues in bf16" in first
    assert "another device, precision than the run so far" in second


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda facts: facts.pop("machine"), id="no-machine"),
        pytest.param(lambda facts: facts["machine"].update(precision="fp4"), id="unknown"),
    ],
)
def test_a_checkpoint_that_names_no_known_precision_is_measured_for(
    tmp_path: Path, machine: Machine, change: Callable[[dict[str, Any]], object]
) -> None:
    run(open_run(tmp_path, "bf16"), stop_at=1)
    saved_in(tmp_path, change)
    _, seen = run(open_run(tmp_path), is_resumed=True, stop_at=2)
    assert seen.of(Started)[0].machine["precision"] == "fp32" and len(machine.calls) == 1


def test_the_products_are_those_of_a_micro_batch_s_rows(machine: Machine) -> None:
    def measured(**tables: Any) -> tuple[int, Callable[..., Any]]:
        document = {"data": {"batch_tokens": 4096}, **tables}
        precision_for(run_config(Path("x"), **document), CPU)
        return machine.calls[-1]

    auto = {"precision": "auto"}
    assert measured(compute=auto) == (4096, linear)
    assert measured(compute={**auto, "micro_batches": 8}) == (512, linear)
    assert measured(compute={**auto, "micro_batches": 8}, parallel={"dp": 2}) == (256, linear)
    assert measured(compute={**auto, "micro_batches": 8}, parallel={"tp": 2}) == (512, linear)
    assert measured(compute={**auto, "compile": True}) == (4096, F.linear)
    assert measured(compute=auto, data={"batch_tokens": 2}) == (2, linear)


def seconds_of_a_step(engine: OneProcess, batch: Batch) -> float:
    """The thread's own time on a core: other processes take no part in it."""
    begun = time.thread_time()
    engine.update(batch, progress=0.5, learning_rate_scale=1.0)
    return time.thread_time() - begun


@pytest.mark.measures
@pytest.mark.timeout(900)
def test_the_faster_precision_is_chosen_on_this_machine(tmp_path: Path) -> None:
    """By real rates, against the steps of a small run in turns; near a ratio of one either choice is right."""
    chosen = precision_for(open_run(tmp_path, data={"batch_tokens": 1024}), CPU).precision
    config, batch = open_run(tmp_path), packed_batch(rows=16, length=64)
    data = data_for(config)
    formats: tuple[Precision, ...] = ("fp32", "bf16")
    computes = {precision: replace(config.compute, precision=precision) for precision in formats}
    engines = {name: OneProcess(replace(config, compute=found), data) for name, found in computes.items()}
    best_s = dict.fromkeys(formats, math.inf)
    for _ in range(15):
        for precision, engine in engines.items():
            best_s[precision] = min(best_s[precision], seconds_of_a_step(engine, batch))
    assert best_s[chosen] < 1.15 * min(best_s.values()), (chosen, best_s)
