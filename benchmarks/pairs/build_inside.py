"""The program inside a build's sandbox: `build.py TREE_MODEL [COMPILER FLAGS...]`.

Compiles each Python source to bytecode in memory and, where a compiler is named, `csrc/*.cpp` into one shared library,
whose bytes go to stdout. All messages go to stderr. Runs nothing of the tree. Knows nothing of who asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def refuse(message: str) -> None:
    """End with `message` as the reason."""
    sys.stderr.write(message + "\n")
    sys.exit(1)


def check_python(root: Path) -> None:
    for path in sorted(root.rglob("*.py")):
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            refuse(f"{path}: {type(error).__name__}: {error}")


def compile_native(root: Path, command: list[str]) -> None:
    """One library of all sources. The compiler reads nothing from our stdin and writes nothing to our stdout."""
    sources = sorted(str(path) for path in (root / "csrc").glob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "_native.so"
        done = subprocess.run(
            [*command, "-I", str(root / "csrc"), "-o", str(library), *sources],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env={**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0"},
            check=False,
        )
        if done.returncode != 0:
            refuse(f"{command[0]} ended with status {done.returncode}")
        with library.open("rb") as built:
            shutil.copyfileobj(built, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def main(arguments: list[str]) -> None:
    root, *command = arguments
    check_python(Path(root))
    if command:
        compile_native(Path(root), command)


if __name__ == "__main__":
    main(sys.argv[1:])
