"""What ends a run early, in this process: the words for a person, the exit status, and the checkpoint that stays."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._inductor.exc import InductorError

from model.checkpoint import CheckpointError, save_checkpoint
from model.config import ConfigError
from model.data.batches.batch import Batch
from model.data.errors import ShardError, StateError
from model.parallel.mesh.mesh import MeshError
from model.parallel.mesh.processes import RankMissingError
from model.training.config.run_config import RunConfig, run_config_from
from model.training.report.events import Stepped
from model.training.report.log import read_log
from model.training.run import checkpoints as checkpoints_module
from model.training.run import engine as engine_module
from model.training.run.errors import (
    DamagedCheckpointError,
    FolderInUseError,
    NotFiniteError,
    RunExistsError,
    RunFailedError,
    SavedStateError,
)
from model.training.run.export import export_newest
from model.training.run.faults import Fault, explain
from model.training.run.run import train
from model.training.run.setup import model_for
from tests.model.training.run.training_runs import (
    VOCABULARY,
    Interrupts,
    Remembers,
    data_for,
    final_state,
    model_of,
    run,
    run_config,
    run_document,
)

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]


class BadBatch:
    """A stream whose batch of one step makes the loss infinite or fails."""

    def __init__(self, stream: Any, step: int, error: Exception | None = None) -> None:
        self.stream, self.step, self.error, self.count = stream, step, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> BadBatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def __next__(self) -> Batch:
        self.count += 1
        if self.count == self.step and self.error is not None:
            raise self.error
        return next(self.stream)


def fault_of(config: RunConfig, data: Any, seen: Remembers | None = None) -> tuple[Fault, RunFailedError]:
    with pytest.raises(RunFailedError) as raised:
        train(config, data, observers=[seen or Remembers()])
    fault = explain(raised.value, "gainshare train x.toml")
    assert fault is not None
    return fault, raised.value


def test_a_loss_that_is_no_number_names_step_and_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path)
    update = engine_module.trainer_for

    def poisoned(*arguments: Any) -> Any:
        trainer = update(*arguments)
        honest = trainer.update

        def spoilt(*batches: Any, **options: Any) -> Any:
            if trainer.steps == 4:
                with torch.no_grad():
                    trainer.model.norm.weight.fill_(float("nan"))
            return honest(*batches, **options)

        trainer.update = spoilt
        return trainer

    monkeypatch.setattr(engine_module, "trainer_for", poisoned)
    seen = Remembers()
    fault, failed = fault_of(config, data_for(config), seen)
    assert (fault.code, fault.exit_status) == ("not_finite", 4)
    assert seen.of(Stepped)[-1].step == failed.step == 4
    assert isinstance(failed.__cause__, NotFiniteError) and failed.batch_file is not None
    assert failed.batch_file == tmp_path / "bad-batch-step-5.safetensors"
    for part in (
        "loss of step 5 is nan",
        str(failed.batch_file),
        "learning_rate",
        "--resume",
        "step-00000004",
    ):
        assert part in str(fault)
    # The batch is the fifth one, as the stream would give it again.
    stream = data_for(config).stream
    fifth = [next(stream) for _ in range(5)][-1]
    assert torch.equal(load_file(failed.batch_file)["tokens_BS"], fifth.tokens_BS)
    # The newest checkpoint is from before the weights went bad.
    kept = final_state(tmp_path)["model"]
    assert all(torch.isfinite(value).all() for value in kept.values())


def tables_of(learning_rate: float, **tables: Any) -> dict[str, Any]:
    """One checkpoint, saved after each step; no step of the warm-up, no look at held-out data."""
    return {
        "recipe": {"learning_rate": learning_rate, "warmup_steps": 0},
        "saving": {"every_steps": 1, "keep": 1},
        "evaluation": {"every_steps": 0},
        **tables,
    }


def saved_steps(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def failing(config: RunConfig, data: Any) -> Fault:
    """The fault of a run that is resumed."""
    with pytest.raises(RunFailedError) as raised:
        train(config, data, is_resumed=True)
    fault = explain(raised.value, "gainshare train x.toml")
    assert fault is not None
    return fault


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    run(run_config(tmp_path, **tables_of(0.01)), stop_at=2)
    kept = saved_steps(tmp_path)
    config = run_config(tmp_path, **tables_of(1e42))
    fault = failing(config, data_for(config))
    assert (fault.code, fault.exit_status) == ("not_finite", 4)
    assert (
        "step 3 left values that are not finite in " in fault.message and "nothing was saved" in fault.message
    )
    assert f"--resume` continues from {tmp_path}/checkpoints/step-00000002" in fault.action
    assert saved_steps(tmp_path)[-1] == "step-00000002" in kept and not list(tmp_path.glob("bad-batch*"))
    assert run(run_config(tmp_path, **tables_of(0.01)), is_resumed=True)[0].step == 6  # as the message says


def test_weights_that_lead_nowhere_do_not_push_the_good_ones_out(tmp_path: Path) -> None:
    """The weights are finite, but the next step's loss is not, each time that the run is resumed from them."""
    run(run_config(tmp_path, **tables_of(0.01)), stop_at=2)
    config = run_config(tmp_path, **tables_of(1e30))
    for _ in range(2):
        fault = failing(config, data_for(config))
        assert fault.code == "not_finite" and "step 4" in fault.message
        assert saved_steps(tmp_path) == ["step-00000002", "step-00000003"]
        bad, good = (tmp_path / "checkpoints" / name for name in ("step-00000003", "step-00000002"))
        assert "remove that folder and lower [recipe] learning_rate" in fault.action
        assert str(bad) in fault.action and f"--resume` continues from {good}" in fault.action
    shutil.rmtree(bad)
    assert run(run_config(tmp_path, **tables_of(0.01)), is_resumed=True)[0].step == 6


def test_the_first_checkpoint_may_lead_nowhere(tmp_path: Path) -> None:
    config = run_config(tmp_path, **tables_of(1e30))
    fault, failed = fault_of(config, data_for(config))
    assert failed.saved is not None and "remove that folder" in fault.action
    assert fault.action.endswith("`gainshare train x.toml` starts again")
    shutil.rmtree(failed.saved)
    assert run(run_config(tmp_path, **tables_of(0.01)))[0].step == 6


def test_a_held_out_loss_that_is_no_number_ends_the_run_before_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = engine_module.held_out_loss

    def spoilt(*arguments: Any, **options: Any) -> Any:
        return honest(*arguments, **options)._replace(loss=float("nan"))

    monkeypatch.setattr(engine_module, "held_out_loss", spoilt)
    config = run_config(tmp_path)
    fault, failed = fault_of(config, data_for(config))
    assert (fault.code, failed.step, saved_steps(tmp_path)) == ("not_finite", 3, ["step-00000002"])
    assert fault.message == "step 3 left weights whose held-out loss is nan; nothing was saved"
    assert f"--resume` continues from {tmp_path}/checkpoints/step-00000002" in fault.action
    assert read_log(tmp_path / "log.jsonl", "evaluated")[-1]["loss"] == "nan"


def test_a_model_that_is_no_numbers_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "model.training.run.run.require_finite_weights", lambda *_: None
    )  # as older versions saved
    config = run_config(tmp_path, **tables_of(1e42, budget={"steps": 1}))
    fault, _ = fault_of(config, data_for(config))
    assert fault.code == "not_finite" and not (tmp_path / "model").exists()
    with pytest.raises(DamagedCheckpointError, match="step-00000001 holds values that are not finite"):
        export_newest(tmp_path / "checkpoints", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_damaged_data_keeps_the_last_checkpoint_and_names_the_file(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    data = data_for(config)
    error = ShardError("data/general/train/shard-0.arrow is damaged: …; build the data again")
    fault, failed = fault_of(config, replace(data, stream=BadBatch(data.stream, 4, error)))
    assert (fault.code, fault.exit_status, failed.step) == ("data", 6, 3)
    for part in ("shard-0.arrow", "after step 3", "build the data again", "--resume", "step-00000002"):
        assert part in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=["python", "cpu", "cuda"],
)
def test_memory_that_ran_out_says_what_needs_less(tmp_path: Path, error: Exception) -> None:
    config = run_config(tmp_path)
    fault, _ = fault_of(config, data_for(config), Interrupts(3, error))
    assert (fault.code, fault.exit_status) == ("out_of_memory", 3)
    for part in ("after step 3", "micro_batches", "checkpointing", "--resume", "step-00000002"):
        assert part in str(fault)
    # And it can be followed: more micro-batches go on from there.
    result, seen = run(run_config(tmp_path, compute={"micro_batches": 4}), is_resumed=True)
    assert result.step == 6 and seen.of(Stepped)[0].step == 3


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path)
    honest = checkpoints_module.write_model

    def full(folder: Path, *arguments: Any, **options: Any) -> None:
        if "00000004" in str(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        honest(folder, *arguments, **options)

    monkeypatch.setattr(checkpoints_module, "write_model", full)
    fault, _ = fault_of(config, data_for(config))
    assert (fault.code, fault.exit_status) == ("disk_full", 5)
    for part in ("No space left", "MiB free", "Free space", "--resume", "step-00000002"):
        assert part in str(fault)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (ConfigError("[data] is wrong"), "usage", 2),
        (MeshError("ep must divide dp"), "usage", 2),
        (RankMissingError("rank 1 did not start"), "rank_lost", 9),
        (RunExistsError("x holds a run"), "run_exists", 2),
        (FolderInUseError("process 7 trains"), "in_use", 8),
        (DamagedCheckpointError("a is damaged"), "checkpoint", 7),
        (SavedStateError("another shape"), "checkpoint", 7),
        (CheckpointError("no model"), "checkpoint", 7),
        (ShardError("no data"), "data", 6),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "os_error", 1),
    ],
)
def test_faults_before_the_first_step(error: Exception, code: str, status: int) -> None:
    fault = explain(error, "gainshare train x.toml")
    assert fault is not None and (fault.code, fault.exit_status) == (code, status)
    assert fault.action and str(fault).endswith(fault.action)


@pytest.mark.parametrize(
    ("error", "parts", "wrong"),
    [
        (
            StateError("other seed: start anew"),
            ["start anew. To start again, choose another output"],
            "starts again",
        ),
        (ShardError("build it"), ["`gainshare train x.toml --resume` starts again"], "x.toml` starts"),
        (
            SavedStateError("another shape"),
            ["Take the configuration that the run was started with"],
            "damaged",
        ),
        (DamagedCheckpointError("a is damaged"), ["Remove what is damaged"], "configuration"),
        (CheckpointError("x is none: train first"), ["When that is done, start again"], "configuration"),
        (ConfigError("did you mean 'n_layers'?"), ["'n_layers'? Correct that and start again"], "?."),
        (MemoryError(), ["before the first step", "make [model] smaller", "adamw_8bit"], "micro_batches"),
    ],
)
def test_advice_before_the_first_step_of_a_run_that_goes_on(
    error: Exception, parts: list[str], wrong: str
) -> None:
    fault = explain(error, "gainshare train x.toml", is_resumed=True)
    assert fault is not None and all(part in str(fault) for part in parts) and wrong not in str(fault)


def test_memory_that_runs_out_in_the_first_step_may_be_the_batch_s_or_the_model_s() -> None:
    failed = RunFailedError(step=0, saved=None, output=Path("x"))
    failed.__cause__ = MemoryError()
    fault = explain(failed, "gainshare train x.toml")
    assert fault is not None and "in the first step" in fault.message
    assert "Raise [compute] micro_batches" in fault.action and "make [model] smaller" in fault.action


def test_what_a_killed_compiler_left_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    failed = RunFailedError(step=3, saved=None, output=Path("x"))
    failed.__cause__ = InductorError(ImportError("/tmp/main.so: file too short"), None)
    fault = explain(failed, "gainshare train x.toml")
    assert fault is not None and (fault.code, fault.exit_status) == ("compile_failed", 1)
    assert "torch.compile failed after step 3" in fault.message and "file too short" in fault.message
    assert f"Remove {tmp_path} " in fault.action and "compile = false" in fault.action
    failed.__cause__ = InductorError(MemoryError("not enough memory"), None)
    fault = explain(failed, "gainshare train x.toml")
    assert fault is not None and fault.code == "out_of_memory"


def test_an_error_that_nobody_foresaw_is_not_explained_away() -> None:
    assert explain(KeyError("x"), "c") is None
    failed = RunFailedError(step=3, saved=None, output=Path("x"))
    failed.__cause__ = RuntimeError("a bug")
    assert explain(failed, "c") is None


def test_a_checkpoint_that_holds_no_numbers_is_named_before_the_first_step(tmp_path: Path) -> None:
    spoilt = model_of()
    with torch.no_grad():
        spoilt.norm.weight[3] = float("nan")
    folder = tmp_path / "spoilt"
    save_checkpoint(folder, spoilt.config, spoilt.state_dict(), metadata={}, files={})
    document = run_document(tmp_path / "run") | {"model": {"checkpoint": str(folder)}}
    config = run_config_from(document, name="small")
    with pytest.raises(CheckpointError) as caught:
        model_for(config, VOCABULARY)
    fault = explain(caught.value, "gainshare train run.toml")
    assert fault is not None and (fault.code, fault.exit_status) == ("checkpoint", 7)
    for part in (str(folder), "norm.weight", "not finite", "Fetch or export the model again"):
        assert part in str(fault)
    assert "ower [recipe] learning_rate" not in str(fault)
