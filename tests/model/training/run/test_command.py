"""`gainshare train` as a function of its arguments, in this process: what it prints, returns and leaves alone."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.config import ConfigError
from model.data.batches.stream import WINDOW_TOKENS
from model.training.report.events import Event, Stepped
from model.training.run.command import main
from model.training.run.data import open_data
from tests.model.training.run.training_processes import run_file
from tests.model.training.run.training_runs import Remembers, data_folder, run_config

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]
Answer = tuple[int, dict[str, Any]]


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command keeps freed memory for its whole process, which here is that of other tests too."""
    monkeypatch.setattr("model.training.run.command.keep_freed_memory", lambda: True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data") / "built")


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Exit status and the one JSON document that the command prints."""

    def answer(file: Path, *options: str) -> Answer:
        status = main([str(file), "--json", *options])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, document

    return answer


def test_help_says_how_a_precision_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "Where the file names no precision, or 'auto', the run chooses when it starts" in said
    assert "A resumed run keeps its precision." in said and "exit status: 0 done" in said


def test_export_keeps_what_is_no_model(
    tmp_path: Path, data: Path, answer: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_file(tmp_path, data, budget={"steps": 1})
    assert answer(file)[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("hi")
    monkeypatch.chdir(other)
    for folder in (other, Path(), tmp_path):
        status, document = answer(file, "--export", str(folder))
        assert status == 2 and "choose another" in document["error"]["message"]
    assert (other / "precious").read_text() == "hi" and file.is_file()
    for _ in range(2):  # one of ours is replaced
        assert answer(file, "--export", str(tmp_path / "model"))[0] == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    status, document = answer(file, "--export", str(checkpoint))
    assert status == 2 and "is a checkpoint" in document["error"]["message"]
    assert (checkpoint / "optimizer.safetensors").is_file()


class InterruptsTwice(Remembers):
    """As a person who cannot wait: the second Ctrl-C comes while the step is finished and saved."""

    def on(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            raise KeyboardInterrupt  # as the handler does, which may run within a callback that swallows it


def test_a_second_ctrl_c_names_the_checkpoint_that_stays(
    tmp_path: Path, data: Path, answer: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.report.progress.progress_on", lambda _console: InterruptsTwice())
    file = run_file(tmp_path, data)
    handler = signal.getsignal(signal.SIGINT)
    status, document = answer(file)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert (status, document["error"]["code"]) == (130, "interrupted")
    assert document["error"]["message"] == (
        f"interrupted: `gainshare train {file} --resume` continues from {checkpoint}"
    )
    assert list(checkpoint.parent.iterdir()) == [checkpoint] and signal.getsignal(signal.SIGINT) is handler


def test_a_ctrl_c_before_the_first_step_is_one_line(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.training.run.data.open_data", interrupted)
    assert main([str(run_file(tmp_path, data))]) == 130
    [line] = capsys.readouterr().err.splitlines()
    assert "nothing was saved yet; start again with" in line


class Interrupted:
    """Stands where modules are found, and is struck by Ctrl-C there."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "model.training.run.command":
            raise KeyboardInterrupt


def test_a_ctrl_c_during_the_first_import_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "model.training.run.command")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as raised:
        runpy.run_module("model.training", run_name="__main__")
    assert raised.value.code == 130
    assert capsys.readouterr().err == "interrupted before anything was done\n"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"data": {"batch_tokens": 8, "sequence_length": 4}},
            "[evaluation] scores no position of the held-out instr",
        ),
        ({"recipe": {"learning_rate": float("nan")}}, "learning_rate must be a finite number, not nan"),
    ],
)
def test_what_cannot_be_trained_on_is_one_document(
    tmp_path: Path, data: Path, answer: Callable[..., Answer], tables: dict[str, Any], message: str
) -> None:
    status, document = answer(run_file(tmp_path, data, **tables))
    assert status == 2 and message in document["error"]["message"]


def test_a_model_of_another_tokenizer_is_not_trained_on(
    tmp_path: Path, data: Path, answer: Callable[..., Answer]
) -> None:
    assert answer(run_file(tmp_path, data, "first", budget={"steps": 1}))[0] == 0
    model = tmp_path / "first" / "model"
    tables: dict[str, Any] = {"budget": {"steps": 1}, "evaluation": {"every_steps": 0}}
    file = run_file(tmp_path, data, "second", **tables)
    head, _, tail = file.read_text().partition("[model]")
    file.write_text(f'{head}[model]\ncheckpoint = "{model}"\n[data]{tail.partition("[data]")[2]}')
    assert answer(file)[0] == 0
    other = data_folder(tmp_path / "other", word="specific")
    file.write_text(file.read_text().replace(str(data), str(other)).replace("/second", "/third"))
    status, document = answer(file)
    assert status == 2 and f"--tokenizer {model}`" in document["error"]["message"]
    (model / "tokenizer.json").unlink()  # nothing to compare with
    assert answer(file)[0] == 0


@pytest.mark.parametrize("options", [["--steps", "3"], ["--resume"]])
def test_export_takes_no_options_of_training(
    tmp_path: Path, data: Path, answer: Callable[..., Answer], options: list[str]
) -> None:
    status, document = answer(run_file(tmp_path, data), "--export", str(tmp_path / "model"), *options)
    message = "--export trains nothing: leave --steps and --resume out. Correct that and start again"
    assert (status, document["error"]["message"]) == (2, message)


def test_a_run_whose_model_would_replace_other_things_does_not_start(
    tmp_path: Path, data: Path, answer: Callable[..., Answer]
) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "code.py").write_text("mine")
    status, document = answer(run_file(tmp_path, data))
    assert status == 2 and "other content than a model" in document["error"]["message"]
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["model", "code.py"]


def test_data_without_a_document_to_train_on_are_refused(data: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    shutil.copytree(data, held_out, ignore=shutil.ignore_patterns("train"))
    with pytest.raises(ConfigError, match="held-out has no documents to train on: build it with a smaller"):
        open_data(run_config(tmp_path, data={"folder": str(held_out)}))


def test_a_batch_may_be_larger_than_a_window_of_documents(data: Path, tmp_path: Path) -> None:
    rows = WINDOW_TOKENS // 256 + 1
    config = run_config(
        tmp_path,
        data={"folder": str(data), "batch_tokens": 256 * rows, "sequence_length": 256},
        curriculum={"mixture": {"general": 1}},
        evaluation={"every_steps": 0},
    )
    with open_data(config).stream as stream:
        assert next(stream).tokens_BS.shape == (rows, 256)
