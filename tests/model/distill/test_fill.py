"""The command that fills a run's cache: the run then learns as with the teacher beside it, and mistakes are told."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import save_checkpoint
from model.data.arrow.data_folder import open_data_folder
from model.distill import CachedTeacher
from model.distill import fill as fill_module
from model.distill.__main__ import main
from model.presets import PRESETS
from model.training.config.run_config import read_run_config
from model.training.report.events import Stepped
from model.training.report.product_rates import ProductRates
from model.training.run import setup
from model.training.run.data import open_data
from model.training.run.run import train
from model.training.run.serving_files import serving_files
from model.transformer import Transformer
from tests.model.training.run.training_runs import Remembers, data_folder, run_document, toml

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and a random `teacher` of its tokenizer."""
    folder = tmp_path_factory.mktemp("school")
    tokenizer = open_data_folder(data_folder(folder / "data")).tokenizer
    torch.manual_seed(2)
    config = replace(PRESETS["tiny"], name="teacher", vocab_size=tokenizer.vocab_size, max_context=64)
    state, files = Transformer(config).state_dict(), serving_files(tokenizer).files
    save_checkpoint(folder / "teacher", config, state, metadata={}, files=files)
    return folder


def run_file(school: Path, folder: Path, *, sequence_length: int = 64, **tables: Any) -> Path:
    """Three steps of a student whose cache is `answers` unless it is told otherwise."""
    given = {
        "data": {"folder": str(school / "data"), "batch_tokens": 256, "sequence_length": sequence_length},
        "distillation": {"cache": str(folder / "answers")},
        "evaluation": {"every_steps": 0},
        "budget": {"steps": 3},
        **tables,
    }
    document = run_document(folder / "run", **given)
    if "seconds" in document["budget"]:
        del document["budget"]["steps"]
    file = folder / "run.toml"
    folder.mkdir(exist_ok=True)
    file.write_text(toml(document), encoding="utf-8")
    return file


def losses(file: Path) -> list[float]:
    config, seen = read_run_config(file), Remembers()
    train(config, open_data(config), observers=[seen])
    return [step.loss for step in seen.of(Stepped)]


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize(
    "compute",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "fp32", "micro_batches": 2}],
    ids=str,
)
def test_a_run_learns_from_a_filled_cache_as_from_its_teacher(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], compute: dict[str, Any]
) -> None:
    """All tokens are kept, so that answers differ by 16 bits of rounding alone."""
    file = run_file(school, tmp_path, compute=compute)
    vocabulary = str(open_data_folder(school / "data").tokenizer.vocab_size)
    assert main(["fill", str(file), str(school / "teacher"), "--k", vocabulary, "--json"]) == 0
    done = result(capsys)
    assert done["cache"] == str(tmp_path / "answers") and done["tokens_computed"] > 400
    table = {"teacher": str(school / "teacher")}
    live = losses(run_file(school, tmp_path / "live", compute=compute, distillation=table))
    assert losses(file) == pytest.approx(live, rel=2e-3)


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_a_teacher_computes_in_the_precision_that_a_new_run_would_choose(
    school: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    faster: str,
) -> None:
    rates = ProductRates(**{"fp32": 1e9, "bf16": 1e9, faster: 2e9})
    monkeypatch.setattr(setup, "measure_product_rates", lambda *_, **__: rates)
    shards = []
    for precision in ("auto", faster):
        folder = tmp_path / precision
        file = run_file(school, folder, compute={"precision": precision})
        assert main(["fill", str(file), str(school / "teacher"), "--json"]) == 0
        assert result(capsys)["precision"] == faster
        [shard] = (folder / "answers").glob("*.safetensors")
        shards.append(load_file(shard))
    chosen, named = shards
    assert chosen.keys() == named.keys()
    assert all(torch.equal(chosen[name], named[name]) for name in chosen)


def test_a_cache_is_filled_up_and_not_anew(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, teacher = run_file(school, tmp_path), str(school / "teacher")
    assert main(["fill", str(file), teacher, "--steps", "1", "--json"]) == 0
    first = result(capsys)
    assert first["tokens_computed"] + first["tokens_known"] <= 256
    assert main(["fill", str(file), teacher, "--json"]) == 0
    second = result(capsys)
    assert second["tokens_computed"] > 0 and second["tokens_known"] >= first["tokens_computed"]
    assert second["tokens"] == first["tokens"] + second["tokens_computed"]
    shards = sum(shard.stat().st_size for shard in (tmp_path / "answers").glob("*.safetensors"))
    assert second["bytes"] == shards
    assert main(["fill", str(file), teacher]) == 0
    out, err = capsys.readouterr()
    assert (
        out.startswith(f"{tmp_path / 'answers'} is ready after ") and ": 0 tokens computed in fp32, " in out
    )
    assert all(re.fullmatch(r"teacher: \d+ of about 768 tokens", line) for line in err.splitlines())
    assert 1 <= len(err.splitlines()) < 3  # not one for each of the batches


def test_a_budget_of_tokens_ends_the_filling_where_the_run_ends(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(school, tmp_path, budget={"steps": 100, "tokens": 600})
    assert main(["fill", str(file), str(school / "teacher"), "--json"]) == 0
    done = result(capsys)
    assert 600 <= done["tokens_computed"] + done["tokens_known"] < 600 + 256
    assert len(losses(file)) >= 3  # it knows all that they ask


def test_show_tells_what_a_cache_holds_and_finds_damage(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fill", str(run_file(school, tmp_path)), str(school / "teacher"), "--k", "5", "--json"]) == 0
    filled, folder = result(capsys), tmp_path / "answers"
    assert main(["show", str(folder), "--verify", "--json"]) == 0
    shown = result(capsys)
    assert (shown["k"], shown["temperature"], shown["verified_shards"]) == (5, 2.0, 1)
    assert (shown["tokens"], shown["bytes"]) == (filled["tokens"], filled["bytes"])
    assert shown["teacher"] == CachedTeacher.open(folder).manifest.teacher
    assert main(["show", str(folder)]) == 0
    assert f"tokens          {filled['tokens']}" in capsys.readouterr().out.splitlines()
    [shard] = folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-5] ^= 0xFF
    shard.write_bytes(content)
    assert main(["show", str(folder), "--verify"]) == 1
    assert "is damaged: remove it" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, the error's code and its message."""
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert err.splitlines()[-1] == f"error: {error['message']}"
    return status, error["code"], error["message"]


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        ({"distillation": {"teacher": "a"}}, [], "names no cache to fill"),
        (
            {"budget": {"seconds": 5}, "curriculum": {"total_tokens": 900}},
            [],
            "so the number of steps is unknown: give --steps",
        ),
        ({}, ["--k", "5000"], "k is 5000, but the teacher has"),
        ({"sequence_length": 128}, [], "max_context of 64"),
        ({"model": {"vocab_size": 400}}, [], "vocabulary of 400"),
        ({"recipe": {"learning_rte": 1}}, [], "did you mean 'learning_rate'"),
    ],
)
def test_runs_that_cannot_be_filled_are_usage_errors(
    school: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tables: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    file = run_file(school, tmp_path, **tables)
    status, code, said = refused(capsys, "fill", file, school / "teacher", *options)
    assert (status, code) == (2, "usage") and message in said
    assert not (tmp_path / "answers").exists()


def test_a_teacher_of_other_tokens_is_refused(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = run_file(school, tmp_path), tmp_path / "other"
    shutil.copytree(school / "teacher", other)
    document = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert "is not the teacher's" in refused(capsys, "fill", file, other)[2]
    (other / "tokenizer.json").unlink()
    assert "other has no tokenizer.json" in refused(capsys, "fill", file, other)[2]


def test_what_is_not_there_or_not_whole_is_named(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, teacher = run_file(school, tmp_path), school / "teacher"
    assert refused(capsys, "fill", tmp_path / "no.toml", teacher) == (
        1,
        "os_error",
        f"{tmp_path / 'no.toml'}: No such file or directory",
    )
    status, code, message = refused(capsys, "fill", file, tmp_path / "none")
    assert (status, code) == (1, "unusable") and "none has no model" in message
    assert "has no teacher's cache" in refused(capsys, "show", tmp_path / "none")[2]
    nowhere = run_file(school, tmp_path / "b", data={"folder": str(tmp_path), "batch_tokens": 256})
    assert "is no data folder" in refused(capsys, "fill", nowhere, teacher)[2]
    assert main(["fill", str(file), str(teacher), "--k", "4", "--steps", "1"]) == 0
    capsys.readouterr()
    assert "another k" in refused(capsys, "fill", file, teacher)[2]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "run the same command to continue"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "raise [compute] micro_batches"),
    ],
)
def test_what_ends_a_filling_early_says_how_it_goes_on(
    school: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    file, teacher, real = run_file(school, tmp_path), school / "teacher", fill_module.precompute

    def stops(*arguments: Any, **options: Any) -> None:
        real(*arguments, **{**options, "shard_tokens": 1})
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(fill_module, "precompute", stops)
        found, _, said = refused(capsys, "fill", file, teacher)
    assert found == status and message in said
    assert main(["fill", str(file), str(teacher), "--json"]) == 0
    assert result(capsys)["tokens_computed"] == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["fill"], ["fill", "a.toml", "b", "--k", "0"], ["fill", "a.toml", "b", "--steps", "x"]],
    ids=str,
)
def test_wrong_command_lines_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("command", ["fill", "show"])
def test_the_commands_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "--json" in capsys.readouterr().out
