"""Whole runs in this process: budgets, saving, resuming bit for bit, signals and evaluation."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import load_config, load_transformer
from model.config import ConfigError
from model.data.errors import StateError
from model.training.report.events import Evaluated, Finished, Noticed, Saved, Started, Stepped
from model.training.report.log import read_log
from model.training.run.engine import OneProcess
from model.training.run.errors import (
    FolderInUseError,
    RunExistsError,
    RunFailedError,
    SavedStateError,
)
from model.training.run.evaluation import held_out_loss
from model.training.run.export import export_newest
from model.training.run.folder import RunFolder
from model.training.run.setup import device_of, trainer_for
from model.training.run.stop_signals import StopSignals
from tests.model.training.run.training_runs import (
    Interrupts,
    Remembers,
    data_for,
    equal_states,
    final_state,
    losses,
    run,
    run_config,
    same_state,
)

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]


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
    assert result.tensorboard == str(folder.tensorboard) and any(folder.tensorboard.iterdir())
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
    assert started.parameters == sum(p.numel() for p in trainer_for(config, 32, "fp32").model.parameters())


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
    data, trainer = data_for(config), trainer_for(config, 32, "fp32")
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


def test_what_the_engine_has_to_say_is_said_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneProcess, "notices", ("all compute on the CPU",))
    for steps, is_resumed in ((1, False), (2, True)):
        _, seen = run(run_config(tmp_path), is_resumed=is_resumed, stop_at=steps)
        assert [event.message for event in seen.of(Noticed)] == ["all compute on the CPU"]


def test_what_changed_between_two_starts_is_said(tmp_path: Path) -> None:
    run(run_config(tmp_path), stop_at=1)
    _, seen = run(run_config(tmp_path, recipe={"learning_rate": 0.02}), is_resumed=True, stop_at=2)
    assert [event.message for event in seen.of(Noticed)] == [
        "recipe.learning_rate was 0.01 and is 0.02 from here on"
    ]


OTHER_BATCHES: list[tuple[dict[str, Any], str]] = [
    ({"data": {"batch_tokens": 128}}, "batch_tokens"),
    ({"seed": 4}, "seed"),
    ({"data": {"sequence_length": 32}}, "curriculum"),
    ({"curriculum": {"mixture": {"general": 1}}}, "curriculum"),
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
    for tables, name in OTHER_BATCHES:
        with pytest.raises(StateError, match=f"stream with other {name}"):
            run(run_config(tmp_path, **tables), is_resumed=True)
    with pytest.raises(SavedStateError, match="optimizer 'adamw', this recipe says 'muon'"):
        run(run_config(tmp_path, recipe={"optimizer": "muon"}), is_resumed=True)
    with pytest.raises(SavedStateError, match=r"no moving average: leave Recipe\.ema_decay out"):
        run(run_config(tmp_path, recipe={"ema_decay": 0.9}), is_resumed=True)


@pytest.mark.parametrize(
    "tables",
    [
        {"recipe": {"ema_decay": None, "weight_decay": 0.2, "schedule": "cosine", "beta2": 0.9}},
        {"recipe": {"ema_decay": 0.7}, "budget": {"tokens": 300}, "compute": {"precision": "bf16"}},
        {
            "recipe": {"ema_decay": 0.5},
            "compute": {"eight_bit": "int8", "micro_batches": 2, "checkpointing": "full"},
        },
        {
            "recipe": {"ema_decay": 0.5},
            "evaluation": {"every_steps": 1},
            "saving": {"keep": 1},
            "data": {"prefetch": 2},
        },
    ],
)
def test_what_may_change_between_two_starts(tmp_path: Path, tables: dict[str, Any]) -> None:
    run(run_config(tmp_path, recipe={"ema_decay": 0.5}), stop_at=1)
    result, _ = run(run_config(tmp_path, **tables), is_resumed=True, stop_at=3)
    assert result.step == 3 and result.loss is not None and result.loss < 10


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
    trainer = trainer_for(config, 32, "fp32")
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
        trainer_for(config, 32, "fp32")
    stage = {"name": "long", "share": 1, "mixture": {"general": 1}, "sequence_length": 600}
    config = run_config(tmp_path, curriculum={"stages": [stage]})
    with pytest.raises(ConfigError, match=r"curriculum.stages\]\] sequence_length is 600, but the model's"):
        trainer_for(config, 32, "fp32")


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT and stop.exit_status == 130
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        with pytest.raises(KeyboardInterrupt):
            handler(signal.SIGINT, None)  # a signal's may run within a callback that swallows the error
        os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM is no hurry
        assert stop.received is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
