"""A tree is compiled once per hash and compiler; failures are tried again."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.pairs import build_memory as build_memory_module
from benchmarks.pairs.build import LIBRARY
from benchmarks.pairs.build_memory import BuildMemory
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


def tree(folder: Path, name: str, source: str | None) -> Path:
    """A tree of one C++ source, or of Python only."""
    model = folder / name / "model"
    model.mkdir(parents=True)
    (model / "__init__.py").write_text("")
    if source is not None:
        (model / "csrc").mkdir()
        (model / "csrc" / "one.cpp").write_text(source)
    for path in (folder / name, *(folder / name).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / name


def build(memory: BuildMemory, tree: Path, tree_hash: str) -> bytes | None:
    memory.build("base", tree, tree_hash, level=best_level(), slot=0)
    library = tree / "model" / LIBRARY
    return library.read_bytes() if library.exists() else None


def test_the_same_hash_is_compiled_once_and_gives_the_same_bytes(folder: Path) -> None:
    memory = BuildMemory()
    first = build(memory, tree(folder, "first", GOOD), "a")
    # what lies there now could not be compiled, so the library comes from memory
    assert build(memory, tree(folder, "again", BROKEN), "a") == first
    assert first is not None and first.startswith(b"\x7fELF")
    with pytest.raises(SideFailed):
        build(memory, tree(folder, "other", BROKEN), "b")


def test_what_failed_is_tried_again(folder: Path) -> None:
    memory = BuildMemory()
    with pytest.raises(SideFailed):
        build(memory, tree(folder, "broken", BROKEN), "a")
    assert build(memory, tree(folder, "mended", GOOD), "a") is not None


def test_a_tree_of_python_only_has_no_library(folder: Path) -> None:
    memory = BuildMemory()
    assert build(memory, tree(folder, "first", None), "a") is None
    assert build(memory, tree(folder, "again", None), "a") is None


def test_another_compiler_and_what_was_long_unused_are_built_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = BuildMemory()
    build(memory, tree(folder, "first", GOOD), "a")
    monkeypatch.setattr(build_memory_module, "compiler_identity", lambda: "another")
    with pytest.raises(SideFailed):
        build(memory, tree(folder, "second", BROKEN), "a")
    monkeypatch.undo()
    monkeypatch.setattr(build_memory_module, "MOST_TREES", 1)
    build(memory, tree(folder, "third", None), "b")
    with pytest.raises(SideFailed):
        build(memory, tree(folder, "fourth", BROKEN), "a")
