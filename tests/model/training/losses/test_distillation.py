"""Runs whose file names a teacher: what they learn, log and refuse, and that they go on exactly."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_transformer
from model.config import ConfigError
from model.data.arrow.data_folder import open_data_folder
from model.data.batches.batch import Batch
from model.distill import Distillation, LiveTeacher, precompute, tokenizer_sha256
from model.distill.hidden import hidden_states
from model.training.config.run_config import DistillationConfig, RunConfig
from model.training.losses.distillation import learn_from_teacher, parts
from model.training.losses.objective import losses_on
from model.training.report.events import Stepped
from model.training.run import run as run_module
from model.training.run.checkpoints import load
from model.training.run.data import open_data
from model.training.run.errors import SavedStateError
from model.training.run.faults import explain
from model.training.run.run import train
from model.training.run.setup import trainer_for
from tests.model.training.run.training_runs import Remembers, data_folder, run_config, same_state

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and a `teacher` that has seen some of it."""
    folder = tmp_path_factory.mktemp("school")
    data_folder(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "measure_gemm_peak", lambda _device, _dtype: 1e12)
        config = student(folder, folder / "teacher", budget={"steps": 30}, distillation=None, n_layers=2)
        train(config, open_data(config))
    return folder


def student(school: Path, output: Path, *, n_layers: int = 1, **tables: Any) -> RunConfig:
    given: dict[str, Any] = {
        "model": {"n_layers": n_layers},
        "data": {"folder": str(school / "data"), "batch_tokens": 256, "sequence_length": 64},
        "distillation": {"teacher": str(school / "teacher" / "model")},
        "evaluation": {"every_steps": 0},
        **tables,
    }
    return run_config(output, **{name: table for name, table in given.items() if table is not None})


def steps_of(config: RunConfig, **options: Any) -> list[Stepped]:
    seen = Remembers()
    train(config, open_data(config), observers=[seen], **options)
    return seen.of(Stepped)


def weights(output: Path) -> dict[str, torch.Tensor]:
    newest = sorted((output / "checkpoints").iterdir())[-1]
    return load(newest)[0].tensors["model"]


def test_a_step_s_loss_is_its_parts(school: Path, tmp_path: Path) -> None:
    tables = {"teacher": str(school / "teacher" / "model"), "weight": 0.3, "temperature": 3.0}
    for step in steps_of(student(school, tmp_path, distillation=tables)):
        target, divergence = step.metrics["target_loss"], step.metrics["teacher_divergence"]
        assert step.loss == pytest.approx(0.7 * target + 0.3 * divergence, rel=1e-5)
        assert target > 0 and divergence > 0


def test_micro_batches_log_the_whole_update(school: Path, tmp_path: Path) -> None:
    one, two = (
        steps_of(student(school, tmp_path / str(n), compute={"micro_batches": n, "threads": 1}), stop_at=1)[0]
        for n in (1, 2)
    )
    for name in ("target_loss", "teacher_divergence"):
        assert two.metrics[name] == pytest.approx(one.metrics[name], rel=1e-4)


def test_a_student_comes_nearer_to_its_teacher(school: Path, tmp_path: Path) -> None:
    alone, taught = tmp_path / "alone", tmp_path / "taught"
    steps_of(student(school, alone, distillation=None))
    first, *_, last = steps_of(student(school, taught))
    assert last.metrics["teacher_divergence"] < first.metrics["teacher_divergence"]
    assert not same_state(weights(alone), weights(taught))


def test_a_taught_run_goes_on_bit_for_bit(school: Path, tmp_path: Path) -> None:
    straight = student(school, tmp_path / "straight")
    stopped = replace(straight, output=tmp_path / "stopped")
    whole = steps_of(straight)
    before = steps_of(stopped, stop_at=3)
    after = steps_of(stopped, is_resumed=True)
    assert [step.loss for step in (*before, *after)] == [step.loss for step in whole]
    assert same_state(weights(straight.output), weights(stopped.output))


def test_the_teacher_takes_the_student_s_format(school: Path, tmp_path: Path) -> None:
    config = student(school, tmp_path, compute={"precision": "bf16"})
    [step] = steps_of(config, stop_at=1)
    exact = steps_of(student(school, tmp_path / "fp32"), stop_at=1)[0]
    assert step.loss == pytest.approx(exact.loss, rel=0.02)
    assert step.loss != exact.loss


def batches(config: RunConfig, n: int) -> Iterator[Batch]:
    with open_data(config).stream as stream:
        yield from itertools.islice(stream, n)


def fill(school: Path, folder: Path, config: RunConfig, n: int, temperature: float = 2.0) -> None:
    model = load_transformer(school / "teacher" / "model", torch.float32)
    identity = tokenizer_sha256((school / "data" / "tokenizer.json").read_text(encoding="utf-8"))
    teacher = LiveTeacher(model, tokenizer=identity)
    precompute(folder, teacher, batches(config, n), k=teacher.vocab_size, temperature=temperature)


def test_cached_answers_teach_as_the_model_does(school: Path, tmp_path: Path) -> None:
    live = student(school, tmp_path / "live")
    fill(school, tmp_path / "answers", live, 6)
    cached = student(school, tmp_path / "cached", distillation={"cache": str(tmp_path / "answers")})
    for one, other in zip(steps_of(live), steps_of(cached), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=2e-3)  # answers are kept in 16 bits


def test_data_that_the_cache_does_not_know_ends_the_run_and_keeps_the_checkpoint(
    school: Path, tmp_path: Path
) -> None:
    fill(school, tmp_path / "answers", student(school, tmp_path / "any"), 1)
    config = student(school, tmp_path / "run", distillation={"cache": str(tmp_path / "answers")})
    config = replace(config, saving=replace(config.saving, every_steps=1))
    with pytest.raises(Exception) as raised:
        train(config, open_data(config))
    fault = explain(raised.value, "gainshare train run.toml")
    assert fault is not None and (fault.code, fault.exit_status) == ("data", 6)
    assert "has no entry for a piece" in str(fault)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000001"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs either teacher, a model folder, or cache"),
        ({"teacher": "a", "cache": "b"}, "needs either teacher"),
        ({"teacher": "a", "weight": 0.0}, "weight must be above 0"),
        ({"teacher": "a", "weight": 1.5}, "at most 1"),
        (
            {"teacher": "a", "temperature": 0.009},
            r"\[distillation\] a temperature must be from 0\.01 to 100, not 0\.009",
        ),
        ({"cache": "a", "temperature": 101}, "from 0.01 to 100, not 101"),
        ({"teacher": "a", "temprature": 1}, "did you mean 'temperature'"),
        ({"teacher": "a", "hidden_weight": -0.1}, "hidden_weight must not be negative"),
        ({"cache": "a", "hidden_weight": 1.0}, "a cache holds no hidden states"),
        ({"teacher": "a", "layer_map": [[0, 1]]}, "layer_map is read with hidden_weight only"),
        ({"teacher": "a", "hidden_weight": 1.0, "layer_map": []}, "must be pairs of layers"),
        ({"teacher": "a", "hidden_weight": 1.0, "layer_map": [[0, 1], [0, 2]]}, "each of its layers once"),
        ({"teacher": "a", "hidden_weight": 1.0, "layer_map": [[-1, 1]]}, "counted from 0"),
        ({"teacher": "a", "hidden_weight": 1.0, "layer_map": [[0]]}, "must have 2 values, not 1"),
        (3, r"\[distillation\] must be a table"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(tmp_path, distillation=table)


def test_a_teacher_of_another_tokenizer_is_refused(school: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(school / "teacher" / "model", other)
    document = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"\[distillation\] the student's tokenizer .* is not the teacher's"
    ):
        train(
            config := student(school, tmp_path / "run", distillation={"teacher": str(other)}),
            open_data(config),
        )
    (other / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer.json"):
        train(config, open_data(config))


def test_a_cache_of_another_temperature_or_none_is_refused(school: Path, tmp_path: Path) -> None:
    fill(school, tmp_path / "answers", student(school, tmp_path / "any"), 1, temperature=4.0)
    for folder, message in (
        (tmp_path / "answers", "temperature 4.0"),
        (tmp_path / "none", "has no teacher's"),
    ):
        config = student(school, tmp_path / "run", distillation={"cache": str(folder)})
        with pytest.raises(ConfigError, match=message):
            train(config, open_data(config))


def test_a_teacher_that_cannot_read_the_sequences_is_refused(school: Path, tmp_path: Path) -> None:
    longer = {"folder": str(school / "data"), "batch_tokens": 1024, "sequence_length": 520}
    config = replace(
        student(school, tmp_path / "run", data=longer),
        model=run_config(tmp_path, model={"n_layers": 1, "max_context": 520}).model,
    )
    with pytest.raises(
        ConfigError, match="sequences of 520 tokens and the teacher a max_context of 512: shorten"
    ):
        train(config, open_data(config))


def test_data_without_a_tokenizer_is_refused(school: Path, tmp_path: Path) -> None:
    config = student(school, tmp_path)
    trainer = trainer_for(config, open_data_folder(school / "data").tokenizer.vocab_size, "fp32")
    with pytest.raises(ConfigError, match=r"needs data with a tokenizer.json"):
        learn_from_teacher(trainer, DistillationConfig(teacher=school / "teacher" / "model"), {}, longest=64)
    assert trainer.objective is losses_on


def test_an_objective_without_a_teacher_has_no_parts(school: Path, tmp_path: Path) -> None:
    assert parts(losses_on) == {}
    config = student(school, tmp_path)
    data = open_data(config)
    trainer = trainer_for(config, data.vocabulary, "fp32")
    assert config.distillation is not None
    learn_from_teacher(trainer, config.distillation, data.files, longest=64)
    assert isinstance(trainer.objective, Distillation)
    assert parts(trainer.objective) == {}  # no batch yet
    data.stream.close()


def test_a_teacher_outlives_its_folder(school: Path, tmp_path: Path) -> None:
    """In a process of its own: reading behind the end of a mapped file would be its end."""
    folder = tmp_path / "teacher"
    shutil.copytree(school / "teacher" / "model", folder)
    code = f"""
import os, torch
from pathlib import Path
from model.training.losses.distillation import live_teacher
teacher = live_teacher(Path({str(folder)!r}), torch.device("cpu"), "fp32")
os.truncate({str(folder / "model.safetensors")!r}, 0)
print(float(sum(weight.double().abs().sum() for weight in teacher.model.parameters())) > 0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def hidden(school: Path, output: Path, **tables: Any) -> RunConfig:
    """A run whose student has one layer and its teacher two, of other width."""
    teacher = {"teacher": str(school / "teacher" / "model"), "hidden_weight": 0.5, "weight": 0.3}
    own = tables.pop("distillation", {})
    tables = {"model": {"n_layers": 1, "d_model": 32}, **tables}
    return student(school, output, distillation={**teacher, **own}, **tables)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "muon"])
def test_hidden_states_are_learnt_and_go_on_bit_for_bit(school: Path, tmp_path: Path, optimizer: str) -> None:
    straight = hidden(school, tmp_path / "straight", recipe={"optimizer": optimizer})
    stopped = replace(straight, output=tmp_path / "stopped")
    whole = steps_of(straight)
    for step in whole:
        target, divergence = step.metrics["target_loss"], step.metrics["teacher_divergence"]
        assert step.loss == pytest.approx(
            0.7 * target + 0.3 * divergence + 0.5 * step.metrics["hidden_loss"], rel=1e-5
        )
    assert whole[-1].metrics["hidden_loss"] < whole[0].metrics["hidden_loss"]
    after = [*steps_of(stopped, stop_at=3), *steps_of(stopped, is_resumed=True)]
    assert [step.loss for step in after] == [step.loss for step in whole]
    assert [step.gradient_norm for step in after] == [step.gradient_norm for step in whole]
    first, second = newest(straight.output), newest(stopped.output)
    assert first.keys() == second.keys() and "objective" in first
    for part, tensors in first.items():
        assert same_state(tensors, second[part]), part
    assert first["objective"]["objective.hidden.projections.0"].shape == (64, 32)
    assert any(name.startswith("objective.hidden.projections.0:") for name in first["optimizer"])
    model = load_transformer(straight.output / "model")
    assert model.config.d_model == 32  # projections are no part of it


def newest(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    return load(sorted((output / "checkpoints").iterdir())[-1])[0].tensors


def test_a_loss_on_hidden_states_may_be_dropped_or_weighed_otherwise_not_added(
    school: Path, tmp_path: Path
) -> None:
    steps_of(hidden(school, tmp_path / "with"), stop_at=2)
    steps = steps_of(
        hidden(school, tmp_path / "with", distillation={"hidden_weight": 0.1}), stop_at=3, is_resumed=True
    )
    assert "hidden_loss" in steps[0].metrics
    steps = steps_of(
        hidden(school, tmp_path / "with", distillation={"hidden_weight": 0}), stop_at=4, is_resumed=True
    )
    assert "hidden_loss" not in steps[0].metrics and "objective" not in newest(tmp_path / "with")
    for again in (hidden(school, tmp_path / "with"), hidden(school, tmp_path / "other")):
        with pytest.raises(SavedStateError, match="may be dropped or weighted differently, but not added"):
            if again.output.name == "other":
                two = {"n_layers": 2, "d_model": 32}
                steps_of(
                    hidden(school, again.output, model=two, distillation={"layer_map": [[0, 1]]}), stop_at=1
                )
                again = hidden(school, again.output, model=two, distillation={"layer_map": [[1, 1]]})
            steps_of(again, is_resumed=True)


def test_layers_are_mapped_evenly_or_as_the_file_says(school: Path, tmp_path: Path) -> None:
    for layer_map, expected in ((None, {0: 1}), ([[0, 0]], {0: 0})):
        own = {} if layer_map is None else {"layer_map": layer_map}
        config = hidden(school, tmp_path, distillation=own)
        data = open_data(config)
        trainer = trainer_for(config, data.vocabulary, "fp32")
        assert config.distillation is not None
        learn_from_teacher(trainer, config.distillation, data.files, longest=64)
        data.stream.close()
        assert isinstance(trainer.objective, Distillation) and trainer.objective.hidden is not None
        assert trainer.objective.hidden.layer_map == expected
        moved = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
        assert any(parameter is trainer.objective.hidden.projections["0"] for parameter in moved)
    config = hidden(school, tmp_path / "run", distillation={"layer_map": [[0, 2]]})
    with pytest.raises(
        ConfigError, match=r"\[distillation\] the layer map maps layer 0 to 2: the student has 1"
    ):
        train(config, open_data(config))


@pytest.mark.parametrize(
    ("compute", "tolerance"),
    [
        ({"micro_batches": 2}, 2e-3),  # the loss is relative to each micro-batch's own states
        ({"checkpointing": "full"}, 1e-6),
        ({"checkpointing": "selective"}, 1e-6),
        pytest.param({"compile": True}, 1e-4, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_hidden_states_go_with_every_way_to_compute(
    school: Path, tmp_path: Path, compute: dict[str, Any], tolerance: float
) -> None:
    plain = steps_of(hidden(school, tmp_path / "plain"), stop_at=3)
    other = steps_of(hidden(school, tmp_path / "other", compute=compute), stop_at=3)
    assert [step.loss for step in other] == pytest.approx([step.loss for step in plain], rel=tolerance)
    assert [step.metrics["hidden_loss"] for step in other] == pytest.approx(
        [step.metrics["hidden_loss"] for step in plain], rel=tolerance
    )


def test_compiled_blocks_are_watched_without_being_compiled_anew(school: Path, tmp_path: Path) -> None:
    config = hidden(school, tmp_path, compute={"compile": True})
    data = open_data(config)
    model = trainer_for(config, data.vocabulary, "fp32").model
    data.stream.close()
    block = model.layers[0]
    n_compiled = 0

    def compiled(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal n_compiled
        n_compiled += 1
        output: torch.Tensor = block._call_impl(*arguments, **options)
        return output

    block._compiled_call_impl = compiled
    for _ in range(3):
        with hidden_states(model, [0]) as states:
            expected = model.hidden(torch.zeros(1, 4, dtype=torch.int64))
            assert not block._forward_hooks
        assert states[0] is expected
    assert n_compiled == 3 and block._compiled_call_impl is compiled


def test_an_objective_is_chosen_before_the_first_update(school: Path, tmp_path: Path) -> None:
    config = hidden(school, tmp_path)
    data = open_data(config)
    trainer = trainer_for(config, data.vocabulary, "fp32")
    trainer.update([next(data.stream)], progress=0.0)
    data.stream.close()
    with pytest.raises(ValueError, match="the optimiser already has moments"):
        trainer.learn_by(losses_on)
