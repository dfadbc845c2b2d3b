"""Whole runs in this process: budgets, saving, resuming bit for bit, signals, evaluation, and what ends them early."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import CheckpointError, load_config, load_transformer
from model.config import ConfigError
from model.data.batch import Batch
from model.data.errors import ShardError
from model.training import checkpoints as checkpoints_module
from model.training import engine as engine_module
from model.training import run as run_module
from model.training.checkpoints import load
from model.training.errors import (
    DamagedCheckpointError,
    FolderInUseError,
    NotFiniteError,
    RunExistsError,
    RunFailedError,
    SavedStateError,
)
from model.training.evaluation import held_out_loss
from model.training.events import Evaluated, Event, Finished, Noticed, Saved, Started, Stepped
from model.training.export import export_newest
from model.training.faults import Fault, explain
from model.training.run import Result, train
from model.training.run_config import RunConfig
from model.training.run_folder import RunFolder
from model.training.run_log import read_log
from model.training.setup import device_of, trainer_for
from model.training.stop_signals import StopSignals
from tests.model.training_runs import Remembers, data_for, losses, run_config, same_state


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of this machine has a test of its own."""
    monkeypatch.setattr(run_module, "measure_gemm_peak", lambda _device, _dtype: 1e12)


class Interrupts(Remembers):
    """Sends this process a signal when a step is done; or raises what it was given."""

    def __init__(self, step: int, what: signal.Signals | Exception) -> None:
        super().__init__()
        self.step, self.what = step, what

    def on(self, event: Event) -> None:
        super().on(event)
        if isinstance(event, Stepped) and event.step == self.step:
            if isinstance(self.what, Exception):
                raise self.what
            os.kill(os.getpid(), self.what)


def run(config: RunConfig, seen: Remembers | None = None, **options: Any) -> tuple[Result, Remembers]:
    seen = seen or Remembers()
    return train(config, data_for(config), observers=[seen], **options), seen


def final_state(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    newest = sorted((output / "checkpoints").iterdir())[-1]
    return load(newest)[0].tensors


def equal_states(one: Path, other: Path) -> bool:
    first, second = final_state(one), final_state(other)
    return first.keys() == second.keys() and all(same_state(first[part], second[part]) for part in first)


def test_a_run_ends_with_its_budget_and_leaves_everything(tmp_path: Path) -> None:
    config = run_config(tmp_path / "out")
    result, seen = run(config)
    kinds = [type(event).__name__ for event in seen.events]
    assert kinds[0] == "Started" and kinds[-1] == "Finished" and kinds.count("Stepped") == 6
    assert [event.step for event in seen.of(Evaluated)] == [3, 6]
    assert [event.step for event in seen.of(Saved)] == [2, 4, 6]
    assert result.reason == "the budget is spent" and result.exit_status == 0 and result.step == 6
    folder = RunFolder(config.output)
    names = [path.name for path in sorted(folder.checkpoints.iterdir())]
    assert names == ["step-00000004", "step-00000006"]
    assert folder.plot.read_text().startswith("<svg") and any(folder.tensorboard.iterdir())
    assert [row["loss"] for row in read_log(folder.log, "stepped")] == losses(seen.events)
    model = load_transformer(folder.model)
    assert same_state(model.state_dict(), final_state(config.output)["model"])
    _, metadata = load_config(folder.model)
    assert metadata["steps"] == 6 and metadata["is_average"] is False
    assert seen.is_closed


def test_steps_tell_what_happened(tmp_path: Path) -> None:
    config = run_config(tmp_path, compute={"micro_batches": 2})
    _, seen = run(config)
    first, *_, last = seen.of(Stepped)
    assert first.learning_rate == pytest.approx(0.005) and last.learning_rate == pytest.approx(0.01)
    assert first.progress == pytest.approx(1 / 6) and last.progress == 1.0 and last.eta_s == 0.0
    assert 0 < first.tokens <= 64 and last.tokens > first.tokens
    assert first.tokens_per_s > 0 and 0 < first.mfu < 1 and 0 <= first.padding_share < 0.5
    assert first.memory_bytes is not None and first.stage is None
    assert 1 <= first.metrics["max_over_mean_load"] <= 4 and first.metrics["switch_loss"] > 0
    [started] = seen.of(Started)
    assert started.parameters == sum(p.numel() for p in trainer_for(config, 32).model.parameters())


def test_training_learns_what_the_data_says(tmp_path: Path) -> None:
    config = run_config(
        tmp_path, budget={"steps": 40}, evaluation={"every_steps": 40}, saving={"every_steps": 0}
    )
    result, seen = run(config)
    assert losses(seen.events)[0] > 3.0
    assert result.held_out_loss is not None and result.held_out_loss < 1.0


STOPS = {
    "asked": (Remembers, {"stop_at": 3}),
    "ctrl-c": (lambda: Interrupts(3, signal.SIGINT), {}),
    "sigterm": (lambda: Interrupts(3, signal.SIGTERM), {}),
}


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "muon", "ema_decay": 0.9, "schedule": "wsd"}])
@pytest.mark.parametrize("how", STOPS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, how: str, recipe: dict[str, Any]) -> None:
    observer, options = STOPS[how]
    straight = run_config(tmp_path / "straight", recipe=recipe, data={"prefetch": 2})
    stopped = replace(straight, output=tmp_path / "stopped")
    _, whole = run(straight)
    first, before = run(stopped, observer(), **options)
    assert first.step == 3 and first.model is None
    assert first.exit_status == {"asked": 0, "ctrl-c": 130, "sigterm": 143}[how]
    assert before.of(Finished)[0].reason.startswith("stopped")
    second, after = run(stopped, is_resumed=True)
    assert second.step == 6 and second.exit_status == 0
    assert losses(before.events) + losses(after.events) == losses(whole.events)
    assert equal_states(tmp_path / "straight", tmp_path / "stopped")
    rows = read_log(stopped.output / "log.jsonl", "stepped")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["tokens"] for row in rows] == [
        row["tokens"] for row in read_log(straight.output / "log.jsonl", "stepped")
    ]
    held_out = [event.loss for event in (*before.of(Evaluated), *after.of(Evaluated))]
    assert held_out == [event.loss for event in whole.of(Evaluated)]
    # Only how the two were written differs in the notices: nothing does.
    assert after.of(Noticed) == []


def test_steps_behind_the_newest_checkpoint_are_made_again(tmp_path: Path) -> None:
    """As after kill -9: the log is ahead of what was saved."""
    straight, crashed = run_config(tmp_path / "straight"), run_config(tmp_path / "crashed")
    run(straight)
    with pytest.raises(RunFailedError) as raised:
        run(crashed, Interrupts(5, RuntimeError("power cut")))
    assert raised.value.step == 5 and raised.value.saved is not None
    assert raised.value.saved.name == "step-00000004"
    _, after = run(crashed, is_resumed=True)
    assert [event.step for event in after.of(Stepped)] == [5, 6]
    assert equal_states(straight.output, crashed.output)
    logs = [read_log(config.output / "log.jsonl", "stepped") for config in (straight, crashed)]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_a_damaged_checkpoint_costs_steps_not_the_run(tmp_path: Path) -> None:
    straight, damaged = run_config(tmp_path / "straight"), run_config(tmp_path / "damaged")
    run(straight)
    run(damaged, stop_at=4)
    file = damaged.output / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    _, after = run(damaged, is_resumed=True)
    assert [event.step for event in after.of(Stepped)] == [3, 4, 5, 6]
    [notice] = after.of(Noticed)
    assert "damaged checkpoint" in notice.message and str(file) in notice.message
    assert equal_states(straight.output, damaged.output)


def test_a_curriculum_s_stages_go_on_too(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "budget": {"tokens": 640},
        "curriculum": {"plan": "three_stages", "total_tokens": 510},
        "saving": {"every_steps": 0},
    }
    straight, stopped = (run_config(tmp_path / name, **tables) for name in ("a", "b"))
    straight, stopped = (replace(c, budget=replace(c.budget, steps=None)) for c in (straight, stopped))
    _, whole = run(straight)
    stages = [event.stage for event in whole.of(Stepped)]
    assert list(dict.fromkeys(stages)) == ["general", "domain", "instruction"]
    rates = [event.learning_rate for event in whole.of(Stepped)]
    assert rates[-1] < 0.5 * max(rates)  # the last stage's factors
    run(stopped, stop_at=7)
    run(stopped, is_resumed=True)
    assert equal_states(straight.output, stopped.output)


def test_an_averaged_model_is_evaluated_and_exported(tmp_path: Path) -> None:
    config = run_config(tmp_path, recipe={"ema_decay": 0.5})
    result, seen = run(config)
    both = [event for event in seen.of(Evaluated) if event.step == 6]
    assert [event.is_average for event in both] == [False, True] and both[0].loss != both[1].loss
    assert result.held_out_loss == both[1].loss
    exported = load_file(config.output / "model" / "model.safetensors")
    state = final_state(tmp_path)
    assert not torch.equal(exported["embedding"], state["model"]["embedding"])
    for name, average in state["average"].items():
        assert torch.equal(exported[name], average)
    assert export_newest(tmp_path / "checkpoints", tmp_path / "again") == 6
    assert same_state(load_file(tmp_path / "again" / "model.safetensors"), exported)


def test_held_out_loss_is_the_mean_over_all_targets_and_changes_nothing() -> None:
    config = run_config(Path("unused"))
    data, trainer = data_for(config), trainer_for(config, 32)
    batches = list(data.held_out["general"])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    score = held_out_loss(trainer.model, batches)
    total, count = 0.0, 0
    for batch in batches:
        with torch.no_grad():
            logits = trainer.model.eval()(
                batch.tokens_BS, positions_BS=batch.positions_BS, documents_BS=batch.documents_BS
            )
        log_p = logits.double().log_softmax(-1)
        for row, column in (batch.targets_BS >= 0).nonzero().tolist():
            total -= float(log_p[row, column, batch.targets_BS[row, column]])
            count += 1
    assert score.targets == count and score.loss == pytest.approx(total / count, rel=1e-5)
    assert same_state(trainer.model.state_dict(), before)
    with pytest.raises(ValueError, match="score no position"):
        held_out_loss(trainer.model, [])


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    run(config, stop_at=1)
    with pytest.raises(RunExistsError, match="step-00000001"):
        run(config)
    with RunFolder(tmp_path).locked(), pytest.raises(FolderInUseError, match=f"process {os.getpid()} trains"):
        run(config, is_resumed=True)
    result, _ = run(config, is_resumed=True, stop_at=2)  # the lock is gone
    assert result.step == 2


def test_resuming_nothing_starts_anew_and_says_so(tmp_path: Path) -> None:
    _, seen = run(run_config(tmp_path), is_resumed=True, stop_at=1)
    [notice] = seen.of(Noticed)
    assert "starting at step 0" in notice.message and seen.of(Stepped)[0].step == 1


def test_what_changed_between_two_starts_is_said(tmp_path: Path) -> None:
    run(run_config(tmp_path), stop_at=1)
    _, seen = run(run_config(tmp_path, recipe={"learning_rate": 0.02}), is_resumed=True, stop_at=2)
    assert [event.message for event in seen.of(Noticed)] == [
        "recipe.learning_rate was 0.01 and is 0.02 from here on"
    ]


def test_another_shape_or_other_data_cannot_go_on(tmp_path: Path) -> None:
    run(run_config(tmp_path), stop_at=1)
    with pytest.raises(SavedStateError, match=r"another shape \(moe.top_k\)"):
        run(
            run_config(
                tmp_path,
                model={
                    "preset": "tiny",
                    "n_layers": 1,
                    "tie_embeddings": True,
                    "moe": {"top_k": 3, "bias_balancing": True, "switch_loss": 0.01},
                },
            ),
            is_resumed=True,
        )
    with pytest.raises(Exception, match="stream with other"):
        run(run_config(tmp_path, data={"batch_tokens": 128}), is_resumed=True)


def test_a_finished_run_can_be_prolonged(tmp_path: Path) -> None:
    straight, prolonged = run_config(tmp_path / "a", budget={"steps": 8}), run_config(tmp_path / "b")
    run(straight)
    run(prolonged)
    result, _ = run(replace(prolonged, budget=straight.budget), is_resumed=True)
    assert result.step == 8 and equal_states(straight.output, prolonged.output)
    again, seen = run(replace(prolonged, budget=straight.budget), is_resumed=True)
    assert again.step == 8 and seen.of(Stepped) == [] and again.model is not None


def test_a_checkpoint_s_model_can_be_where_a_run_begins(tmp_path: Path) -> None:
    first = run_config(tmp_path / "first")
    run(first)
    document = {"checkpoint": str(tmp_path / "first" / "model")}
    config = run_config(tmp_path / "second")
    config = replace(config, model=type(config.model).read(document, name="second"))
    trainer = trainer_for(config, 32)
    assert same_state(trainer.model.state_dict(), load_transformer(tmp_path / "first" / "model").state_dict())
    assert all(p.requires_grad and p.dtype is torch.float32 for p in trainer.model.parameters())
    _, seen = run(config, stop_at=1)
    assert losses(seen.events)[0] < 3.0  # it knows something already


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_checkpointed_activations_make_the_same_run(tmp_path: Path, checkpointing: str) -> None:
    config = run_config(tmp_path / "plain")
    _, plain = run(config)
    _, sparing = run(run_config(tmp_path / "sparing", compute={"checkpointing": checkpointing}))
    assert losses(sparing.events) == pytest.approx(losses(plain.events), rel=1e-4)
    loads = [[event.metrics["max_over_mean_load"] for event in seen.of(Stepped)] for seen in (plain, sparing)]
    assert loads[0] == pytest.approx(loads[1])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_compiled_blocks_make_the_same_run_and_the_same_checkpoints(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"budget": {"steps": 3}, "evaluation": {"every_steps": 0}}
    plain = run_config(tmp_path / "plain", **tables)
    compiled = run_config(tmp_path / "compiled", compute={"compile": True}, **tables)
    _, one = run(plain)
    _, other = run(compiled)
    assert losses(other.events) == pytest.approx(losses(one.events), rel=1e-3)
    assert final_state(plain.output)["model"].keys() == final_state(compiled.output)["model"].keys()


@pytest.mark.parametrize("eight_bit", ["int8", "fp8"])
def test_eight_bit_products_make_nearly_the_same_run(tmp_path: Path, eight_bit: str) -> None:
    _, plain = run(run_config(tmp_path / "plain"))
    _, rounded = run(run_config(tmp_path / "rounded", compute={"eight_bit": eight_bit}))
    assert losses(rounded.events) != losses(plain.events)
    assert losses(rounded.events) == pytest.approx(losses(plain.events), rel=0.1)


def test_the_noise_of_int8_s_rounding_goes_on_too(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"compute": {"eight_bit": "int8"}, "recipe": {"optimizer": "adamw_8bit"}}
    straight, stopped = (run_config(tmp_path / name, **tables) for name in ("a", "b"))
    run(straight)
    run(stopped, stop_at=3)
    torch.manual_seed(99)
    run(stopped, is_resumed=True)
    assert equal_states(straight.output, stopped.output)


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        device_of(run_config(Path("x"), compute={"device": "cuda"}))
    with pytest.raises(ConfigError, match="'fp16' is for CUDA"):
        device_of(run_config(Path("x"), compute={"precision": "fp16"}))
    assert device_of(run_config(Path("x"))).type == "cpu"


def test_sequences_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path, data={"sequence_length": 1024, "batch_tokens": 2048})
    with pytest.raises(ConfigError, match="sequence_length is 1024, but the model's max_context 512"):
        trainer_for(config, 32)


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
    fault, failed = fault_of(config, data_for(config))
    assert (fault.code, fault.exit_status) == ("not_finite", 4)
    assert isinstance(failed.__cause__, NotFiniteError) and failed.batch_file is not None
    assert failed.batch_file == tmp_path / "bad-batch-step-4.safetensors"
    for part in (
        "loss of step 4 is nan",
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
    honest = checkpoints_module.save_checkpoint

    def full(folder: Path, *arguments: Any, **options: Any) -> None:
        if "00000004" in str(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        honest(folder, *arguments, **options)

    monkeypatch.setattr(checkpoints_module, "save_checkpoint", full)
    fault, _ = fault_of(config, data_for(config))
    assert (fault.code, fault.exit_status) == ("disk_full", 5)
    for part in ("No space left", "MiB free", "Free space", "--resume", "step-00000002"):
        assert part in str(fault)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (ConfigError("[data] is wrong"), "usage", 2),
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


def test_an_error_that_nobody_foresaw_is_not_explained_away() -> None:
    assert explain(KeyError("x"), "c") is None
    failed = RunFailedError(step=3, saved=None, output=Path("x"))
    failed.__cause__ = RuntimeError("a bug")
    assert explain(failed, "c") is None


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT and stop.exit_status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM is no hurry
        assert stop.received is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
