"""The content of the code that a job's result comes from: what its module imports, directly and through others.

So a result is kept while code changes that it never ran. Imports are read from the source, those within functions too;
what is imported by a computed name is not seen. Uncommitted changes count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("model", "benchmarks.claims")  # other code decides no figure
JOB = "benchmarks.claims.job"
# Programs that a kind of job starts in addition to what it imports.
STARTS = {"parallelism": ("model.parallel.check", "model.plan.__main__")}
# Files that are no Python, by the module that reads or builds them.
READS = {"model.native": "model/csrc", "model.plan.cluster": "model/plan/clusters"}
SUFFIXES = frozenset({".cpp", ".h", ".toml"})


def source_sha256(kind: str, root: Path = ROOT) -> str:
    """Hash of all source files that a job of `kind` depends on, with their paths."""
    digest = hashlib.sha256()
    for file in source_files((JOB, f"benchmarks.claims.{kind}", *STARTS.get(kind, ())), root):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def source_files(modules: Sequence[str], root: Path = ROOT) -> list[Path]:
    """The files of `modules` and of all that they import within `MEASURED`, sorted. Names of no module are left out."""
    waiting, found = list(modules), dict[str, Path]()
    while waiting:
        name = waiting.pop()
        file = _file(name, root)
        if file is None or name in found or not _is_measured(name):
            continue
        found[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [name.rpartition(".")[0], *_imported(file, package)]
    beside = [
        file
        for module, folder in READS.items()
        if module in found
        for file in (root / folder).rglob("*")
        if file.suffix in SUFFIXES
    ]
    return sorted([*found.values(), *beside])


def _is_measured(name: str) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in MEASURED)


def _file(name: str, root: Path) -> Path | None:
    path = root.joinpath(*name.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if name and file.is_file():
            return file
    return None


def _imported(file: Path, package: str) -> Iterator[str]:
    """Names that may be modules: of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
