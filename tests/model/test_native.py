"""The stack's own kernels: built once, found again, and stated where they are missing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import native

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


def test_importing_it_costs_no_torch() -> None:
    code = "import sys, model.native; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
