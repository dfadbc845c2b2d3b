"""Sources are compiled once per digest and compiler; failures are tried again."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs.builds import memory as build_memory_module
from benchmarks.pairs.builds.build import LIBRARY, compile_native, sources_digest
from benchmarks.pairs.builds.memory import BuildMemory
from benchmarks.pairs.side import SideFailed
from benchmarks.sandbox import best_level

pytestmark = pytest.mark.sandbox

GOOD = 'extern "C" __attribute__((visibility("default"))) int one() { return 1; }\n'
BROKEN = "int one( {\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gainshare-build-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def tree(folder: Path, name: str, source: str | None, python: str = "") -> Path:
    """A tree of one C++ source, or of Python only."""
    model = folder / name / "model"
    model.mkdir(parents=True)
    (model / "__init__.py").write_text(python)
    if source is not None:
        (model / "csrc").mkdir()
        (model / "csrc" / "one.cpp").write_text(source)
    for path in (folder / name, *(folder / name).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / name


def build(memory: BuildMemory, tree: Path) -> bytes | None:
    memory.build("base", tree, level=best_level(), slot=0)
    library = tree / "model" / LIBRARY
    return library.read_bytes() if library.exists() else None


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trees that were compiled, in order; by the real compiler."""
    names: list[str] = []

    def compile_and_note(name: str, tree: Path, **options: Any) -> bytes:
        names.append(tree.name)
        return compile_native(name, tree, **options)

    monkeypatch.setattr(build_memory_module, "compile_native", compile_and_note)
    return names


def test_sources_that_a_patch_left_alone_are_compiled_once(folder: Path, compiled: list[str]) -> None:
    memory = BuildMemory()
    first = build(memory, tree(folder, "first", GOOD))
    assert build(memory, tree(folder, "patched", GOOD, python="x = 1\n")) == first
    assert first is not None and first.startswith(b"\x7fELF")
    assert build(memory, tree(folder, "other", GOOD.replace("1", "2"))) not in (first, None)
    assert compiled == ["first", "other"]


def test_trees_with_equal_sources_that_are_built_at_once_are_compiled_once(
    folder: Path, compiled: list[str]
) -> None:
    memory, trees = BuildMemory(), [tree(folder, name, GOOD) for name in ("base", "candidate")]
    with ThreadPoolExecutor(len(trees)) as pool:
        base, candidate = pool.map(lambda each: build(memory, each), trees)
    assert base == candidate is not None and len(compiled) == 1


def test_trees_that_fail_at_once_fail_each_for_itself(folder: Path, compiled: list[str]) -> None:
    memory, trees = BuildMemory(), [tree(folder, name, BROKEN) for name in ("base", "candidate")]
    with ThreadPoolExecutor(len(trees)) as pool:
        ended = [pool.submit(build, memory, each).exception() for each in trees]
    assert all(isinstance(each, SideFailed) for each in ended) and len(compiled) == 2


def test_the_python_of_a_tree_is_checked_each_time(folder: Path) -> None:
    memory = BuildMemory()
    build(memory, tree(folder, "first", GOOD))
    broken = tree(folder, "broken", GOOD, python="def (:\n")
    with pytest.raises(SideFailed, match="SyntaxError"):
        build(memory, broken)
    assert not (broken / "model" / LIBRARY).exists()


def test_what_failed_is_tried_again(folder: Path, compiled: list[str]) -> None:
    memory = BuildMemory()
    for name in ("broken", "again"):
        with pytest.raises(SideFailed):
            build(memory, tree(folder, name, BROKEN))
    assert build(memory, tree(folder, "mended", GOOD)) is not None
    assert compiled == ["broken", "again", "mended"]


def test_a_tree_of_python_only_has_no_library(folder: Path) -> None:
    memory = BuildMemory()
    assert build(memory, tree(folder, "first", None)) is None
    assert build(memory, tree(folder, "again", None)) is None


def test_another_compiler_and_what_was_long_unused_are_built_again(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = BuildMemory()
    build(memory, tree(folder, "first", GOOD))
    with monkeypatch.context() as patch:
        patch.setattr(build_memory_module, "compiler_identity", lambda: "another")
        build(memory, tree(folder, "second", GOOD))
    build(memory, tree(folder, "third", GOOD))
    assert compiled == ["first", "second"]
    monkeypatch.setattr(build_memory_module, "MOST_LIBRARIES", 2)
    build(memory, tree(folder, "fourth", None))  # in place of the other compiler's
    build(memory, tree(folder, "fifth", GOOD))
    build(memory, tree(folder, "sixth", GOOD.replace("1", "2")))
    build(memory, tree(folder, "seventh", None))
    assert compiled == ["first", "second", "fourth", "sixth", "seventh"]


@pytest.mark.parametrize("change", ["byte", "name", "header", "folder"])
def test_the_digest_knows_every_byte_and_name_that_a_compiler_sees(folder: Path, change: str) -> None:
    plain = tree(folder, "plain", GOOD)
    before, csrc = sources_digest(plain), plain / "model" / "csrc"
    (plain / "model" / "layer.py").write_text("x = 1\n")
    assert sources_digest(plain) == before  # not below csrc: no compiler sees it
    if change == "byte":
        (csrc / "one.cpp").write_text(GOOD + "\n")
    elif change == "name":
        (csrc / "one.cpp").rename(csrc / "two.cpp")
    elif change == "header":
        (csrc / "one.h").write_text("")
    else:
        (csrc / "part").mkdir()
        (csrc / "one.cpp").rename(csrc / "part" / "one.cpp")
    assert sources_digest(plain) != before
