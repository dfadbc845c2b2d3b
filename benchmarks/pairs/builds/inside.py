"""The program inside a build's sandbox: `build.py TREE_MODEL [COMPILER FLAGS...]`.

Compiles each Python source to bytecode in memory and, where a compiler is named, all `.cpp` files of `csrc` into one shared library,
whose bytes go to stdout. All messages go to stderr. Runs nothing of the tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = 2  # compilers; the sandbox's memory must do for all of them


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
    """One library of all sources, each compiled by a separate process, in parallel."""
    sources = sorted((root / "csrc").rglob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        objects = [f"{folder}/{number}.o" for number in range(len(sources))]
        commands = [
            [*command, "-I", str(root / "csrc"), "-c", str(source), "-o", target]
            for source, target in zip(sources, objects, strict=True)
        ]
        for status in pool.map(run_compiler, commands):
            refuse_failure(command[0], status)
        library = Path(folder) / "_native.so"
        refuse_failure(command[0], run_compiler([*command, *objects, "-o", str(library)]))
        with library.open("rb") as built:
            shutil.copyfileobj(built, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def run_compiler(command: list[str]) -> int:
    """Run a command and return its status. It reads nothing from our stdin and writes nothing to our stdout."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        env={**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0"},
        check=False,
    ).returncode


def refuse_failure(compiler: str, status: int) -> None:
    if status != 0:
        refuse(f"{compiler} ended with status {status}")


def main(arguments: list[str]) -> None:
    root, *command = arguments
    check_python(Path(root))
    if command:
        compile_native(Path(root), command)


if __name__ == "__main__":
    main(sys.argv[1:])
