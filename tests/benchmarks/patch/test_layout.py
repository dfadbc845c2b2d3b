"""The present layout is what the suites' samples import, and the shipped tree has it."""

import ast
from pathlib import Path

import pytest

from benchmarks.patch import layout
from benchmarks.patch.layout import SAMPLE_MODULES, missing_modules
from benchmarks.patch.trees import scan_files

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "benchmarks" / "suites" / "samples"
PRESENT = [f"{name.replace('.', '/')}.py" for name in SAMPLE_MODULES]


def imported(source: str) -> set[str]:
    """Every module of `model` that the source imports, wherever the import is."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "model"}


def sent_to_samples() -> list[Path]:
    """The files that run inside a sandbox: samples, and the modules that suites send with them."""
    return [path for path in SAMPLES.glob("*.py") if path.name != "__init__.py"]


def test_the_layout_names_exactly_what_the_samples_import() -> None:
    files = sent_to_samples()
    assert len(files) > 5
    needed = set().union(*(imported(file.read_text()) for file in files))
    assert tuple(sorted(needed)) == SAMPLE_MODULES


def test_the_shipped_tree_has_the_present_layout() -> None:
    assert missing_modules(path for path, _, _ in scan_files(ROOT, "model")) == ()


def test_a_tree_of_the_layout_before_lacks_what_moved() -> None:
    before = ["model/layers/moe.py" if path == "model/layers/moe/layer.py" else path for path in PRESENT]
    assert missing_modules(before) == ("model.layers.moe.layer",)
    assert missing_modules([]) == SAMPLE_MODULES


def test_a_module_may_be_a_package() -> None:
    paths = ["model/config/__init__.py" if path == "model/config.py" else path for path in PRESENT]
    assert missing_modules(paths) == ()


def test_the_rule_follows_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SAMPLE_MODULES", ("model.a",))
    assert missing_modules(["model/a.py"]) == () and missing_modules(["model/b.py"]) == ("model.a",)
