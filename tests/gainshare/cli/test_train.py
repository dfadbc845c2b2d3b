"""`gainshare train`: its options, the program that it becomes, and one run from data to a served model's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gainshare.cli.contributor import train as train_module
from gainshare.cli.main import main
from tests.model.training.run.training_runs import data_folder, run_document, toml

pytestmark = pytest.mark.slow


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that this process would have become."""
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, argv: seen.append(argv))
    return seen


def gainshare(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gainshare", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_it_has_help_and_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert gainshare(monkeypatch, "train", "--help") == 0
    text = capfd.readouterr().out
    for part in ("--resume", "--steps", "--export", "--json", "143", "names no precision, or auto"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "Missing argument 'config'"),
        (["train", "x.toml", "--steps", "many"], "Invalid value for '--steps'"),
        (["train", "x.toml", "--stepz", "3"], "No such option: --stepz"),
    ],
)
def test_a_wrong_command_line_is_a_document_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert gainshare(monkeypatch, *arguments) == 2
    assert capfd.readouterr().out == ""
    assert gainshare(monkeypatch, *arguments, "--json") == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["code"] == "usage" and said in error["message"]


def test_options_are_passed_on(monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    assert gainshare(monkeypatch, "train", "a b.toml") == 0
    assert (
        gainshare(monkeypatch, "train", "x.toml", "--resume", "--steps", "3", "--json", "--export", "out")
        == 0
    )
    start = [sys.executable, "-P", "-m", "model.training"]
    assert became == [
        [*start, "a b.toml"],
        [*start, "x.toml", "--resume", "--json", "--steps", "3", "--export", "out"],
    ]


@pytest.mark.parametrize("arguments", [(), ("x.toml", "--steps", "0"), ("x.toml", "--nonsense")])
def test_wrong_usage_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, became: list[list[str]], arguments: tuple[str, ...]
) -> None:
    assert gainshare(monkeypatch, "train", *arguments) == 2
    assert became == []


def test_the_command_itself_knows_nothing_of_torch() -> None:
    code = "import sys, gainshare.cli.contributor.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert train_module.train.__doc__


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("gainshare"), "train", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_run_from_its_file_to_a_model(tmp_path: Path) -> None:
    data_folder(tmp_path / "data")
    document = run_document(
        Path("out"), data={"folder": "data", "sequence_length": 32}, recipe={"ema_decay": 0.9}
    )
    (tmp_path / "run.toml").write_text(toml(document))
    (tmp_path / "model").mkdir()  # where one starts it there may be a folder of that name
    (tmp_path / "model" / "__init__.py").write_text("raise RuntimeError('the wrong model')")
    done = command(tmp_path, "run.toml", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["step"] == 6 and result["model"] == "out/model" and result["held_out_loss"] > 0
    assert "training: " in done.stderr and "held-out loss" in done.stderr
    exported = command(tmp_path, "run.toml", "--export", "elsewhere")
    assert exported.returncode == 0 and exported.stdout == "wrote elsewhere\n", exported.stderr
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / "model").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    assert again.pop("config.json") and files.pop("config.json") and again == files
    refused = command(tmp_path, "run.toml", "--json")
    assert refused.returncode == 2
    assert "gainshare train run.toml --resume" in json.loads(refused.stdout)["error"]["message"]


def test_errors_are_one_line_with_what_to_do(tmp_path: Path) -> None:
    done = command(tmp_path, "none.toml")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: none.toml: No such file or directory")
    assert "Traceback" not in done.stderr
