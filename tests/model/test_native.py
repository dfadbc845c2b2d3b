"""The stack's own kernels: built once, found again, and stated where they are missing."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import kernel_ways, native
from model.kernel_ways import Rates
from model.layers import linear_fused

EXPORT = 'extern "C" __attribute__((visibility("default"))) '
ANSWER = EXPORT + "int answer() { return %d; }\n"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stack with one kernel and a state folder of its own; nothing is loaded yet."""
    folder = tmp_path / "model" / "csrc"
    folder.mkdir(parents=True)
    (folder / "answer.cpp").write_text(ANSWER % 42)
    monkeypatch.setattr(native, "SOURCES", folder)
    monkeypatch.setattr(native, "BUILT_BY_JUDGE", folder.parent / "_native.so")
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GAINSHARE_KERNELS", raising=False)
    native._load.cache_clear()
    yield folder
    native._load.cache_clear()


def loaded_answer() -> int:
    library = native.library()
    assert library is not None
    return int(library.answer())


def test_kernels_of_folders_are_built_as_well(sources: Path) -> None:
    (sources / "serving").mkdir()
    (sources / "serving/answer.cpp").write_text((ANSWER % 43).replace("answer", "answer_below"))
    library = native.library()
    assert library is not None
    assert (library.answer(), library.answer_below()) == (42, 43)


def test_the_first_use_builds_and_loads(sources: Path, tmp_path: Path) -> None:
    assert native.available()
    assert loaded_answer() == 42
    assert native.library() is native.library()
    (built,) = (tmp_path / "home/native").iterdir()
    assert str(built) in native.state()
    assert (tmp_path / "home/native").stat().st_mode & 0o777 == 0o700


def test_homes_may_share_one_folder(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINSHARE_KERNELS", str(tmp_path / "shared"))
    built = native.build()
    assert built.parent == tmp_path / "shared" and not (tmp_path / "home").exists()
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "another"))
    assert native.build() == built
    assert native.build(tmp_path / "asked for").parent == tmp_path / "asked for/native"


def test_a_second_process_finds_the_library_without_a_compiler(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = native.build()
    before = built.stat().st_mtime_ns
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.build() == built and built.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["source", "header", "new file"])
def test_changed_sources_make_another_library(sources: Path, change: str) -> None:
    first = native.build()
    if change == "source":
        (sources / "answer.cpp").write_text(ANSWER % 43)
    elif change == "header":
        (sources / "answer.h").write_text("int more();\n")
    else:
        (sources / "more.cpp").write_text("int more() { return 1; }\n")
    assert native.build() != first and first.exists()


def test_another_processor_makes_another_library(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = native.build()
    monkeypatch.setattr(native, "processor", lambda: ["model name: another one"])
    assert native.build() != first


def test_the_judge_s_library_goes_first_and_nothing_is_compiled(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.BUILT_BY_JUDGE.write_bytes(native.build().read_bytes())
    (sources / "answer.cpp").write_text(ANSWER % 43)
    monkeypatch.setattr(native, "build", lambda: pytest.fail("built in spite of the judge's library"))
    assert loaded_answer() == 42
    assert str(native.BUILT_BY_JUDGE) in native.state()


def test_processes_that_start_together_all_get_a_whole_library(sources: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(native.build())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4
    assert [file.name for file in paths[0].parent.iterdir()] == [paths[0].name]
    assert loaded_answer() == 42


def why_absent(caplog: pytest.LogCaptureFixture) -> str:
    """Why there is no library, which is said once in the log and as often as one asks."""
    with caplog.at_level(logging.WARNING, logger="model.native"):
        assert native.library() is None and not native.available() and native.library() is None
    assert "torch is used instead" in native.state()
    assert [record.getMessage() for record in caplog.records] == [native.state()]
    return native.state()


def test_without_sources_torch_is_used_and_that_is_said(
    sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sources / "answer.cpp").unlink()
    assert "no C++ sources" in why_absent(caplog)


def test_without_a_compiler_torch_is_used_and_that_is_said(
    sources: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "install one" in why_absent(caplog)


def test_a_source_that_does_not_compile_is_named(sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    (sources / "answer.cpp").write_text("int broken( {\n")
    assert "answer.cpp:1" in why_absent(caplog)
    assert list((Path(os.environ["GAINSHARE_HOME"]) / "native").iterdir()) == []


def test_a_file_that_is_no_library_is_said(sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    native.BUILT_BY_JUDGE.write_bytes(b"not a library")
    assert "_native.so" in why_absent(caplog)


def test_a_compiler_that_hangs_is_given_up(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "COMPILE_TIMEOUT_S", 0.001)
    with pytest.raises(native.NativeBuildError, match="took more than"):
        native.build()


def test_a_folder_that_others_may_write_to_is_refused(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home/native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(native.NativeBuildError, match="other users can write"):
        native.build()


def test_a_state_folder_that_cannot_be_made_is_said(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "file"))
    with pytest.raises(native.NativeBuildError, match="set GAINSHARE_HOME"):
        native.build()


def test_the_command_builds_or_says_why_not(
    sources: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert native.main(["build"]) == 0
    assert Path(capsys.readouterr().out.strip()).parent == tmp_path / "home/native"
    (sources / "answer.cpp").unlink()
    assert native.main(["build"]) == 1
    assert "no C++ sources" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        native.main([])
    with pytest.raises(SystemExit, match="0"):
        native.main(["--help"])
    assert "compile the kernels" in capsys.readouterr().out


def test_the_command_shows_the_library_and_the_rates_that_it_rests_on(
    sources: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", sources.parent)
    monkeypatch.delenv("GAINSHARE_BF16", raising=False)
    assert native.main(["state"]) == 0
    shown = capsys.readouterr().out
    assert f"native kernels: {native.build()}" in shown and "nothing was measured" in shown
    kernel_ways.keep(kernel_ways.kernels_folder(), RATES)
    assert native.main(["state"]) == 0
    assert "products of bf16 by fma: 2 GFLOP/s in fp32, 1 in bf16 pairs" in capsys.readouterr().out
    native.BUILT_BY_JUDGE.write_bytes(b"built elsewhere")
    assert native.main(["state"]) == 0
    assert f"native kernels: {native.BUILT_BY_JUDGE}" in capsys.readouterr().out


# --- Measured ways ------------------------------------------------------------------------------------------------

RATES = Rates(fma=2e9, dot=1e9, fp32_own=1e9, fp32_torch=2e9, bf16_own=2e9, bf16_torch=1e9)


@pytest.fixture
def measured(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Sources with a kernel that says how it was compiled, and the flags of each measurement, which `RATES` stand for."""
    for name in native.MEASURED:
        (sources / name).write_text("")
    (sources / "answer.cpp").write_text(
        EXPORT + "int answer() { return BF16_BY_FMA * 10 + FP32_LINEAR_BY_TORCH; }\n"
    )
    calls: list[list[str]] = []

    def rates_of(folder: Path, command: list[str], sources: list[Path]) -> Rates:
        calls.append([flag for flag in command if flag.startswith("-D")])
        return RATES

    monkeypatch.setattr(native, "_rates_of", rates_of)
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", tmp_path / "install")
    monkeypatch.delenv("GAINSHARE_BF16", raising=False)
    return calls


def test_the_library_takes_the_ways_that_were_measured(measured: list[list[str]]) -> None:
    assert loaded_answer() == 11
    # The second time by the way that the first one decided.
    assert measured == [[], ["-DBF16_BY_FMA=1"]]


def test_a_processor_is_measured_once(measured: list[list[str]], sources: Path) -> None:
    first = native.build()
    (sources / "more.cpp").write_text("int more() { return 1; }\n")
    assert native.build() != first
    assert len(measured) == 2


def test_the_command_measures_again(measured: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    kernel_ways.keep(native._own_folder(None), replace(RATES, dot=4e9))
    assert loaded_answer() == 1 and measured == []
    assert native.main(["measure"]) == 0
    assert len(measured) == 2
    assert "products of bf16 by fma: 2 GFLOP/s in fp32, 1 in bf16 pairs" in capsys.readouterr().out
    assert kernel_ways.measured(kernel_ways.kernels_folder()) == RATES


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("command", ["build", "measure", "state"])
def test_the_command_names_a_way_that_does_not_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAINSHARE_BF16", "other")
    assert native.main([command]) == 1
    assert "GAINSHARE_BF16 is 'other': set it to" in capsys.readouterr().err


def test_a_forced_way_is_another_library(measured: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = native.build()
    monkeypatch.setenv("GAINSHARE_BF16", "dot")
    assert native.build() != chosen and loaded_answer() == 1


@pytest.mark.usefixtures("measured")
def test_a_way_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAINSHARE_BF16", "other")
    assert "set it to 'fma' or 'dot'" in why_absent(caplog)


def test_sources_that_cannot_be_measured_are_named(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in native.MEASURED:
        (sources / name).write_text("")
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", tmp_path / "install")
    assert "undefined symbol: linear_fused" in why_absent(caplog)
    assert list((tmp_path / "home/native").iterdir()) == []


@pytest.mark.slow
def test_this_processor_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sources, compiled and timed in a process of their own."""
    monkeypatch.delenv("GAINSHARE_BF16", raising=False)
    compiler = shutil.which("g++")
    assert compiler is not None
    rates = native._measure(tmp_path, compiler, [native.SOURCES / name for name in native.MEASURED])
    assert rates.fma > 1e9
    # Numbers in registers are multiplied faster than those in memory.
    assert 0 < rates.fp32_own < 1.1 * rates.fma and 0 < rates.bf16_own < 1.1 * max(rates.fma, rates.dot)
    assert rates.fp32_torch > 0 and rates.bf16_torch > 0
    assert bool(rates.dot) == ("avx512_bf16" in " ".join(kernel_ways.processor()))
    assert list(tmp_path.iterdir()) == []


def test_importing_it_costs_no_torch() -> None:
    code = "import sys, model.native; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_library_says_from_how_many_rows_on() -> None:
    assert linear_fused.least_rows(torch.float32) == 512
    rates = kernel_ways.measured(kernel_ways.kernels_folder())
    expected = 512 if rates is None else kernel_ways.ways_of(rates).bf16_least_rows
    assert linear_fused.least_rows(torch.bfloat16) == expected
