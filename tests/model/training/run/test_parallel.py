"""`gainshare train` on several processes: the losses of one, its checkpoints for any number, and what a lost one does."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ConfigError
from model.data.batches.batch import IGNORED, PADDING
from model.parallel.mesh.mesh import Mesh
from model.parallel.mesh.workers import Workers
from model.parallel.run import engine as run_engine
from model.parallel.run.engine import ManyProcesses, hanging, stop
from model.parallel.run.rank import Orders, own_rows
from model.training.config.run_config import RunConfig, read_run_config, run_config_from
from model.training.report.log import read_log
from model.training.report.product_rates import ProductRates
from model.training.run import setup
from model.training.run.checkpoints import Checkpoints
from model.training.run.data import open_data
from model.training.run.run import train
from model.training.run.setup import precision_for
from model.training.run.state import MODEL
from tests.model.training.run.training_processes import ended, run_file, start, steps_logged, wait_for_step
from tests.model.training.run.training_runs import (
    VOCABULARY,
    data_folder,
    equal_states,
    packed_batch,
    run_document,
)

pytestmark = [
    pytest.mark.timeout(900),  # each rank imports torch; a busy machine starves whole processes
    pytest.mark.slow,
]
# Nothing that is a mean over one rank's rows, so that curves may be compared.
PLAIN: dict[str, Any] = {"bias_balancing": False, "switch_loss": 0.0}
TABLES: dict[str, Any] = {
    "model": {"preset": "tiny", "n_layers": 2, "tie_embeddings": True, "moe": PLAIN},
    "compute": {"precision": "fp32", "threads": 1, "micro_batches": 2},
}
EXPERTS = {"dp": 2, "ep": 2}
WITHOUT_AND_WITH_DEEPSPEED = [pytest.param({}, id="plain"), pytest.param({"zero": 2}, id="deepspeed")]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data") / "built")


def curve(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output / "log.jsonl", "stepped")]


def norms(output: Path) -> list[float]:
    return [row["gradient_norm"] for row in read_log(output / "log.jsonl", "stepped")]


def held_out(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output / "log.jsonl", "evaluated")]


def in_one_process(folder: Path, data: Path, name: str, **tables: Any) -> RunConfig:
    return read_run_config(run_file(folder, data, name, **{**TABLES, **tables}))


def done(file: Path, *options: str) -> dict[str, Any]:
    status, out, err = ended(start(file, "--json", *options))
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


MESHES = [
    pytest.param(EXPERTS, id="experts"),
    pytest.param({"pp": 2}, id="pipeline", marks=pytest.mark.long),
    pytest.param({"tp": 2}, id="tensor", marks=pytest.mark.long),
    pytest.param({"tp": 2, "ep": 2, "etp": 1}, id="whole-experts", marks=pytest.mark.long),
    pytest.param({"tp": 2, "sequence": True}, id="sequence", marks=pytest.mark.long),
    pytest.param({"dp": 2, "pp": 2, "shard_states": False}, id="four", marks=pytest.mark.long),
]


@pytest.mark.parametrize("mesh", MESHES)
def test_many_processes_train_as_one_does_and_one_goes_on(
    tmp_path: Path, data: Path, mesh: dict[str, Any]
) -> None:
    one = in_one_process(tmp_path, data, "one", budget={"steps": 8})
    train(one, open_data(one))
    many = tmp_path / "many"
    first = done(
        run_file(tmp_path, data, "many", **TABLES, budget={"steps": 8}, parallel=mesh), "--steps", "5"
    )
    assert first["step"] == 5 and first["model"] is None
    assert curve(many) == pytest.approx(curve(one.output)[:5], rel=TOLERANCE)
    assert held_out(many)[:1] == pytest.approx(held_out(one.output)[:1], rel=TOLERANCE)
    alone = in_one_process(tmp_path, data, "many", budget={"steps": 8})
    result = train(alone, open_data(alone), is_resumed=True)
    assert result.step == 8 and result.model is not None
    assert curve(many) == pytest.approx(curve(one.output), rel=TOLERANCE)
    assert curve(many)[-1] < curve(many)[0] - 0.5, "equal curves prove little where nothing is learnt"
    notices = [row["message"] for row in read_log(many / "log.jsonl", "noticed")]
    assert any(notice.startswith("parallel") for notice in notices)


COUNTED: dict[str, Any] = {"bias_balancing": True, "switch_loss": 0.05, "sequence_loss": 0.05, "z_loss": 0.01}
UNEVEN = [
    pytest.param({"dp": 2, "ep": 2}, {}, id="experts"),
    pytest.param({"tp": 2}, {}, id="tensor", marks=pytest.mark.long),
    pytest.param({"pp": 2}, {"checkpointing": "full"}, id="pipeline", marks=pytest.mark.long),
    pytest.param({"pp": 2}, {"checkpointing": "selective"}, id="selective", marks=pytest.mark.long),
    pytest.param({"tp": 2, "sequence": True}, {}, id="sequence", marks=pytest.mark.long),
    pytest.param({"dp": 2, "zero": 2}, {"checkpointing": "full"}, id="deepspeed", marks=pytest.mark.long),
    pytest.param({"dp": 2, "ep": 2, "zero": 1}, {}, id="deepspeed-experts", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("mesh", "compute"), UNEVEN)
def test_padding_is_counted_by_no_number_of_processes(
    tmp_path: Path, data: Path, mesh: dict[str, Any], compute: dict[str, Any]
) -> None:
    """Balancing biases and auxiliary losses included, where one process has as many micro-batches as all ranks together."""
    model = {**TABLES["model"], "moe": COUNTED}
    tables = {"model": model, "recipe": {"balance_rate": 0.02}, "budget": {"steps": 12}}
    sizes = {"sequence_length": 32, "batch_tokens": 128, "prefetch": 0}
    parts = {**TABLES["compute"], **compute, "micro_batches": 2 * mesh.get("dp", 1)}
    many = tmp_path / "many"
    one = read_run_config(run_file(tmp_path, data, "one", **tables, compute=parts, data=sizes))
    train(one, open_data(one))
    parts = {**TABLES["compute"], **compute}
    done(run_file(tmp_path, data, "many", **tables, compute=parts, data=sizes, parallel=mesh))
    assert any(row["padding_share"] > 0 for row in read_log(many / "log.jsonl", "stepped"))
    assert curve(many) == pytest.approx(curve(one.output), rel=TOLERANCE)
    assert norms(many) == pytest.approx(norms(one.output), rel=10 * TOLERANCE)
    assert curve(many)[-1] < curve(many)[0] - 0.5
    alone, together = biases(one.output), biases(many)
    assert alone and all(torch.equal(together[name], alone[name]) for name in alone)


def biases(output: Path) -> dict[str, torch.Tensor]:
    found = Checkpoints(output / "checkpoints", keep=9).newest()
    assert found is not None
    weights = found.snapshot.tensors[MODEL]
    return {name: bias for name, bias in weights.items() if name.endswith("router.bias")}


@pytest.mark.long
@pytest.mark.parametrize(
    "parallel",
    [
        pytest.param({"dp": 2, "ep": 2, "zero": 2}, id="experts"),
        pytest.param({"dp": 2, "zero": 3, "offload": True}, id="weights"),
    ],
)
def test_deepspeed_goes_on_from_one_process_and_one_process_from_it(
    tmp_path: Path, data: Path, parallel: dict[str, Any]
) -> None:
    one = in_one_process(tmp_path, data, "one", budget={"steps": 8})
    train(one, open_data(one))
    alone = in_one_process(tmp_path, data, "many", budget={"steps": 8})
    train(alone, open_data(alone), stop_at=3)
    by_deepspeed = run_file(tmp_path, data, "many", **TABLES, budget={"steps": 8}, parallel=parallel)
    assert done(by_deepspeed, "--resume", "--steps", "6")["step"] == 6
    assert train(alone, open_data(alone), is_resumed=True).step == 8
    for figures in (curve, norms, held_out):
        assert figures(alone.output) == pytest.approx(figures(one.output), rel=TOLERANCE)
    assert curve(alone.output)[-1] < curve(alone.output)[0] - 0.5


def test_all_processes_compute_in_what_the_first_one_chose(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has its own interpreter, where nothing is patched: measuring, it would choose otherwise."""

    def config_of(name: str, precision: str) -> RunConfig:
        compute = {**TABLES["compute"], "precision": precision}
        return read_run_config(
            run_file(tmp_path, data, name, **{**TABLES, "compute": compute, "parallel": EXPERTS})
        )

    unpatched = precision_for(config_of("open", "auto"), torch.device("cpu")).precision
    faster, slower = ("fp32", "bf16") if unpatched == "bf16" else ("bf16", "fp32")
    rates = ProductRates(**{faster: 2e9, slower: 1e9})
    monkeypatch.setattr(setup, "measure_product_rates", lambda *_, **__: rates)
    chosen, named = config_of("open", "auto"), config_of("named", faster)
    train(chosen, open_data(chosen), stop_at=3)
    monkeypatch.undo()  # the resumed run keeps what it has
    train(chosen, open_data(chosen), is_resumed=True)
    train(named, open_data(named))
    assert equal_states(chosen.output, named.output)
    started = read_log(chosen.output / "log.jsonl", "started")
    assert [row["machine"]["precision"] for row in started] == [faster, faster]
    assert [row["precision_reason"] for row in started] == [
        f"products of one thread reach 2 GFLOP/s, against 1 in {slower}",
        "the checkpoint was made in it",
    ]


@pytest.mark.long
@pytest.mark.parametrize("extra", WITHOUT_AND_WITH_DEEPSPEED)
def test_a_killed_process_ends_the_run_and_its_checkpoint_goes_on_bit_for_bit(
    tmp_path: Path, data: Path, extra: dict[str, Any]
) -> None:
    tables: dict[str, Any] = {**TABLES, "parallel": {**EXPERTS, **extra}, "saving": {"every_steps": 4}}
    done(run_file(tmp_path, data, "straight", **tables, budget={"steps": 40}))
    file = run_file(tmp_path, data, "killed", **tables, budget={"steps": 40})
    process = start(file, "--json")
    wait_for_step(tmp_path / "killed", 6, process)
    [worker] = children(process)
    os.kill(worker, signal.SIGKILL)
    status, out, err = ended(process)
    assert status == 9, err
    error = json.loads(out)["error"]
    assert error["code"] == "rank_lost"
    for part in ("rank 1 was ended by SIGKILL", "after step", "--resume", "step-"):
        assert part in error["message"]
    reached = steps_logged(tmp_path / "killed")[-1]
    assert 6 <= reached < 40, "the run ended before its process could be killed"
    assert done(file, "--resume")["step"] == 40
    assert equal_states(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.long
def test_weights_of_several_processes_that_are_no_numbers_are_not_saved(tmp_path: Path, data: Path) -> None:
    tables: dict[str, Any] = {**TABLES, "parallel": EXPERTS, "saving": {"every_steps": 1, "keep": 1}}
    done(run_file(tmp_path, data, **tables), "--steps", "1")
    file = run_file(tmp_path, data, **tables, recipe={"learning_rate": 1e42})
    status, out, err = ended(start(file, "--json", "--resume"))
    assert status == 4, err
    assert "step 2 left values that are not finite" in json.loads(out)["error"]["message"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.long
@pytest.mark.parametrize("extra", WITHOUT_AND_WITH_DEEPSPEED)
def test_a_process_that_hangs_ends_the_run_when_its_time_is_up(
    tmp_path: Path, data: Path, extra: dict[str, Any]
) -> None:
    tables: dict[str, Any] = {**TABLES, "parallel": {**EXPERTS, "timeout_s": 20, **extra}}
    process = start(run_file(tmp_path, data, **tables, budget={"steps": 100_000}), "--json")
    wait_for_step(tmp_path / "run", 3, process)
    [worker] = children(process)
    os.kill(worker, signal.SIGSTOP)
    status, out, err = ended(process)
    assert status == 9, err
    error = json.loads(out)["error"]
    assert error["code"] == "rank_lost"
    for part in ("rank 1 hangs", "20 s of [parallel] timeout_s", "after step", "--resume"):
        assert part in error["message"]
    assert not Path(f"/proc/{worker}").exists()


def test_of_several_silent_ranks_all_are_named() -> None:
    assert (
        hanging([2], 600.0) == "rank 2 hangs, or an answer takes more than the 600 s of [parallel] timeout_s"
    )
    assert hanging([1, 3], 0.5).startswith(
        "one of the ranks 1, 3 hangs, or an answer takes more than the 0.5 s"
    )
    assert hanging([], 8.0).startswith("the other ranks lost one another")


class StuckWorkers(Workers):
    """Ranks that end only when they are killed."""

    def __init__(self) -> None:
        self.are_killed = threading.Event()

    def end(self, grace_s: float) -> list[int]:
        self.are_killed.set()
        return [1, 2]


class LostOrders(Orders):
    """Orders without receivers."""

    def __init__(self) -> None: ...

    def send(self, message: object) -> None: ...


@pytest.fixture
def one_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one, and ranks that are not started."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(run_engine, "Workers", lambda module, job, _: Workers(module, job, 0))
    monkeypatch.setattr(run_engine, "join", lambda _job, _rank: (torch.device("cpu"), LostOrders()))
    monkeypatch.setattr(run_engine, "RunRank", lambda *_: None)


@pytest.mark.usefixtures("one_cuda_device")
def test_processes_that_compute_on_the_cpu_for_want_of_devices_are_noticed(tmp_path: Path) -> None:
    def notices(device: str) -> list[str]:
        tables = {"compute": {"precision": "fp32", "device": device}, "parallel": {"dp": 2}}
        config = run_config_from(run_document(tmp_path, **tables), name="few")
        assert config.parallel is not None
        with ManyProcesses(config, config.parallel, VOCABULARY) as engine:
            return list(engine.notices)

    [notice] = notices("auto")
    assert notice == (
        "[parallel] needs 2 CUDA devices, and torch sees 1: all compute on the CPU; use fewer processes for CUDA"
    )
    assert notices("cpu") == []
    with pytest.raises(ConfigError, match="needs 2 CUDA devices, and torch sees 1: use fewer"):
        notices("cuda")


class UnheardOrders(Orders):
    """Orders that are taken by no one until the ranks' connections break."""

    def __init__(self, workers: StuckWorkers) -> None:
        self.workers, self.sent = workers, list[object]()

    def send(self, message: object) -> None:
        self.sent.append(message)
        assert self.workers.are_killed.wait(60), "the run waits for a rank that hangs"
        raise RuntimeError("Connection closed by peer")


def test_ranks_that_do_not_stop_at_the_end_are_killed(caplog: pytest.LogCaptureFixture) -> None:
    workers = StuckWorkers()
    orders = UnheardOrders(workers)
    with caplog.at_level(logging.WARNING):
        stop(orders, workers, 10.0)
    assert orders.sent == [None]
    assert "ranks [1, 2] did not stop within 10 s: they were killed" in caplog.text


@pytest.mark.long
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_saves(
    tmp_path: Path, data: Path, number: signal.Signals, expected: int
) -> None:
    tables: dict[str, Any] = {**TABLES, "parallel": EXPERTS, "saving": {"every_steps": 0}}
    process = start(run_file(tmp_path, data, **tables, budget={"steps": 100_000}))
    wait_for_step(tmp_path / "run", 3, process)
    workers = children(process)
    for process_id in (*workers, process.pid):  # as a terminal does
        os.kill(process_id, number)
    status, out, _ = ended(process)
    assert status == expected and f"stopped by {number.name}" in out
    last = steps_logged(tmp_path / "run")[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{last:08d}"]
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"parallel": {"ep": 2}}, r"\[parallel\] ep \(2\) must divide dp \(1\)"),
        ({"parallel": {"tp": 2, "etp": 1}}, r"\[parallel\] etp=1 .* give ep of at least 2"),
        ({"parallel": {"dp": 1}}, "single process: raise dp, tp or pp"),
        ({"parallel": {"dp": 2, "shard_state": True}}, "did you mean 'shard_states'"),
        ({"parallel": {"pp": 2}, "compute": {"micro_batches": 1}}, "as many micro-batches"),
        ({"parallel": {"dp": 2, "chunks": 3}}, r"\[parallel\] .* interleaved stages need a pipeline"),
        (
            {"parallel": {"pp": 2, "chunks": 2}, "compute": {"micro_batches": 3}},
            r"\[parallel\] .* 3 micro-batches are not a multiple of pp \(2\)",
        ),
        ({"parallel": {"dp": 2, "timeout_s": 0}}, "timeout_s must be at least 1"),
        ({"parallel": {"dp": 2, "zero": 4}}, r"\[parallel\] ZeRO has stages 0 to 3, not 4"),
        ({"parallel": {"dp": 2, "zero": 0}}, "zero is 1, 2 or 3: leave it out"),
        ({"parallel": {"tp": 2, "zero": 2}}, r"\[parallel\] ZeRO by DeepSpeed .* not with tp or pp"),
        ({"parallel": {"dp": 2, "pp": 2, "zero": 1}}, r"\[parallel\] ZeRO by DeepSpeed .* not with tp or pp"),
        ({"parallel": {"dp": 2, "ep": 2, "zero": 3}}, "refuses expert parallelism .*: use stage 2, or ep=1"),
        ({"parallel": {"dp": 2, "zero": 1, "chunks": 2}}, "interleaved stages need a pipeline"),
        ({"parallel": {"dp": 2, "offload": True}}, "offload is DeepSpeed's: give zero"),
        ({"parallel": {"dp": 2, "zero": 2, "shard_states": False}}, "leave shard_states out"),
        ({"parallel": {"dp": 2, "sequence": True}}, r"\[parallel\] sequence: .* use tp of at least 2"),
        ({"parallel": {"dp": 2, "zero": 1, "sequence": True}}, "leave sequence or zero out"),
        ({"parallel": {"dp": 2, "zero": 2}, "compute": {"precision": "fp16"}}, "precision 'fp16'"),
        ({"parallel": {"dp": 2}, "compute": {"eight_bit": "int8"}}, "does not go with .* eight_bit"),
        ({"parallel": {"dp": 2}, "recipe": {"optimizer": "muon"}}, "optimizer 'muon'"),
        ({"parallel": {"dp": 2}, "recipe": {"ema_decay": 0.9}}, "ema_decay"),
        ({"parallel": {"dp": 2}, "distillation": {"teacher": "folder"}}, "distillation"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config_from(run_document(tmp_path, **tables), name="refused")


def test_a_mesh_that_the_model_cannot_have_is_refused_before_any_process_starts(
    tmp_path: Path, data: Path
) -> None:
    file = run_file(tmp_path, data, **{**TABLES, "parallel": {"dp": 3, "ep": 3}})
    status, out, err = ended(start(file, "--json"))
    assert status == 2, err
    assert "n_experts (8) is not a multiple of ep (3)" in json.loads(out)["error"]["message"]


def test_rows_that_do_not_divide_are_filled_up_with_padding() -> None:
    batch, mesh = packed_batch(rows=5), Mesh(dp=2)
    parts = [own_rows(batch, mesh, place, n_micro_batches=2) for place in range(2)]
    whole = [torch.cat([getattr(part, name) for part in parts]) for name in vars(batch)]
    assert all(len(part.tokens_BS) == 4 for part in parts)
    assert all(
        torch.equal(rows[:5], getattr(batch, name)) for rows, name in zip(whole, vars(batch), strict=True)
    )
    assert sum(part.n_tokens for part in parts) == batch.n_tokens
    assert parts[1].documents_BS[1:].eq(PADDING).all() and parts[1].targets_BS[1:].eq(IGNORED).all()
    even = own_rows(replace(batch), Mesh(dp=5), 4, n_micro_batches=1)
    assert torch.equal(even.tokens_BS, batch.tokens_BS[4:])
