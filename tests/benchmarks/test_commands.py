"""How the benchmarks' commands end, and what their reports say of how they were called."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands import command_line, ends_plainly
from benchmarks.figures import attention
from benchmarks.patch.policy import load_policy
from benchmarks.report import MeasuringFailed
from benchmarks.sandbox import SandboxUnavailable
from benchmarks.suites import SUITES

pytestmark = pytest.mark.slow

ROOT = Path(attention.__file__).resolve().parents[2]

# What is interrupted in each: the first long work of that command.
LONG_WORK = {
    "benchmarks.aa": ("measure", ["--quick"]),
    "benchmarks.figures.attention": ("measure", []),
    "benchmarks.bench": ("measure", ["--kind", "aa"]),
    "benchmarks.capacity.__main__": ("measure", ["--quick"]),
    "benchmarks.capacity.calibrate": ("_calibrate", ["--output", "calibration.json"]),
    "benchmarks.claims.__main__": ("_measure", ["--quick"]),
    "benchmarks.figures.experts": ("measure", []),
    "benchmarks.figures.kernels": ("measure", []),
    "benchmarks.figures.linear": ("measure", []),
    "benchmarks.loop.__main__": ("_measure", []),
    "benchmarks.peers.__main__": ("serve.measure", ["serve"]),
    "benchmarks.power.__main__": ("simulated_rows", []),
    "benchmarks.redteam.__main__": ("_attempts", []),
    "benchmarks.replay": ("measure", []),
    "benchmarks.rerun": ("parse", [__file__, "--base", "shipped", "--candidate", "shipped"]),
    "benchmarks.figures.sampling": ("measure", []),
    "benchmarks.sandbox.__main__": ("self_test", []),
    "benchmarks.served.__main__": ("_under_load", ["--quick"]),
}


@pytest.fixture(autouse=True)
def stays_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands bind their process to a core and change its allocator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("benchmarks.figures.one_core.keep_freed_memory", lambda: None)


@pytest.mark.parametrize("module", LONG_WORK)
def test_ctrl_c_ends_in_a_line_and_status_130(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    command, (work, arguments) = importlib.import_module(module), LONG_WORK[module]
    monkeypatch.setattr(f"{module}.{work}", interrupted)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    assert command.main() == 130
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", "interrupted: no figures")


# A wrong command line of each that can print a document, and what is said of it.
WRONG = {
    "benchmarks.aa": (["--pairs", "23"], "--pairs 23: at least 24"),
    "benchmarks.figures.attention": (["--rounds"], "unrecognized arguments: --rounds"),
    "benchmarks.bench": (["--kind", "gate"], "--kind gate needs a --candidate"),
    "benchmarks.capacity.__main__": (["more"], "unrecognized arguments: more"),
    "benchmarks.capacity.calibrate": ([], "the following arguments are required: --output"),
    "benchmarks.claims.__main__": (["no-such-claim"], "unknown claim no-such-claim"),
    "benchmarks.figures.experts": (["more"], "unrecognized arguments: more"),
    "benchmarks.figures.kernels": (["more"], "unrecognized arguments: more"),
    "benchmarks.figures.linear": (["more"], "unrecognized arguments: more"),
    "benchmarks.loop.__main__": (["no-such-part"], "unknown part no-such-part"),
    "benchmarks.peers.__main__": (["train", "--full"], "unrecognized arguments: --full"),
    "benchmarks.power.__main__": (["more"], "unrecognized arguments: more"),
    "benchmarks.power.real": (["--runs", "many"], "argument --runs: invalid int value: 'many'"),
    "benchmarks.redteam.__main__": (["no-such-cheat"], "there is no patch no-such-cheat"),
    "benchmarks.replay": (["--trace", "none"], "none: there is no such file"),
    "benchmarks.rerun": (["evidence.json"], "the following arguments are required: --base, --candidate"),
    "benchmarks.figures.sampling": (["more"], "unrecognized arguments: more"),
    "benchmarks.sandbox.__main__": (["--level", "glass"], "argument --level: invalid choice: 'glass'"),
    "benchmarks.served.__main__": (["more"], "unrecognized arguments: more"),
}


@pytest.mark.parametrize("module", WRONG)
def test_a_wrong_command_line_is_a_document_where_one_is_asked_for(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, (arguments, said) = importlib.import_module(module), WRONG[module]
    ends = []
    for words in ([*arguments, "--json"], arguments):
        monkeypatch.setattr(sys, "argv", [module, *words])
        with pytest.raises(SystemExit) as end:
            command.main()
        ends.append((end.value.code, *capsys.readouterr()))
    (_, document, words_of_both), (_, nothing, the_same) = ends
    assert {status for status, *_ in ends} == {2} and nothing == ""
    error = json.loads(document)["error"]
    assert error["code"] == "usage" and said in error["message"]
    assert words_of_both == the_same and words_of_both.endswith(f"error: {error['message']}\n")


def test_no_command_that_prints_a_document_is_left_out() -> None:
    found = [
        path
        for path in (ROOT / "benchmarks").rglob("*.py")
        if any(call in path.read_text() for call in ('add_argument("--json"', "one_core.run("))
    ]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found}
    assert names - {"benchmarks.figures.one_core"} == set(WRONG)


def test_the_judge_s_commands_run_nothing_of_the_stack_that_a_patch_may_touch() -> None:
    code = (
        "import sys, benchmarks.aa, benchmarks.bench, benchmarks.power.__main__, benchmarks.redteam.__main__\n"
        "import benchmarks.rerun, benchmarks.sandbox.__main__, benchmarks.worker\n"
        "print(*(m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'model'), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()}
    assert loaded == {f"model/{name}.py" for name in ("__init__", "command_errors", "home", "kernel_ways")}
    assert loaded <= set(load_policy().protected)


@pytest.mark.parametrize("module", ["benchmarks.bench", "benchmarks.rerun"])
def test_a_place_that_takes_no_evidence_is_named_before_anything_is_measured(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, arguments = LONG_WORK[module]
    monkeypatch.setattr(f"{module}.{work}", lambda *_, **__: pytest.fail("it was measured first"))
    assert importlib.import_module(module).main([*arguments, "--out", str(tmp_path / "none" / "file")]) == 2
    assert (
        f"no file can be made there (No such file or directory): '{tmp_path / 'none'}'"
        in capsys.readouterr().err
    )


def test_a_loop_without_a_sandbox_ends_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_sandbox(**_plan: object) -> None:
        raise SandboxUnavailable("no bubblewrap here")

    monkeypatch.setattr("benchmarks.loop.noise.measure", no_sandbox)
    assert importlib.import_module("benchmarks.loop.__main__").main(["noise"]) == 1
    assert capsys.readouterr() == ("", "error: no bubblewrap here\n")


def test_the_suites_that_help_names_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.bench").main(["--help"])
    named = (
        " ".join(capsys.readouterr().out.split()).partition("what is measured: one of ")[2].partition(";")[0]
    )
    assert set(named.split(", ")) == set(SUITES)


def test_what_cannot_be_measured_ends_in_a_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    @ends_plainly
    def main() -> int:
        raise MeasuringFailed("no second core")

    assert main() == 1
    assert capsys.readouterr() == ("", "error: no second core\n")


def test_a_bug_keeps_its_traceback() -> None:
    @ends_plainly
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "python -m benchmarks.aa"),
        (["--json"], "python -m benchmarks.aa"),
        (["--quick", "--json", "--base", "my tree"], "python -m benchmarks.aa --quick --base 'my tree'"),
    ],
)
def test_a_command_line_is_what_prints_the_same_figures(arguments: list[str], line: str) -> None:
    assert command_line("python -m benchmarks.aa", arguments) == line


def test_a_quick_report_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attention, "measure", lambda rounds: [])
    assert attention.main(["--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "python -m benchmarks.figures.attention --quick"
