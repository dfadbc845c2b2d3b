"""Reads files that Python processes in sandboxes start with into the page cache, at our own charge.

A cgroup is charged for each page of a file that its processes are the first to read. Where the kernel has dropped such
pages since, the process that happens to start next would have them in its peak, and its partner would not: 5 to 34 %
between equal trees (`docs/lab/judge.md`).
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from benchmarks.sandbox.runtime import base_interpreter

#: What samples and nodes import.
PACKAGES = ("torch", "torchgen", "tqdm", "numpy", "safetensors", "tokenizers")
#: torch imports them, and each brings a library of the system.
LINKED = ("bz2", "ctypes", "lzma", "ssl", "uuid", "zlib")
NOT_IMPORTED = frozenset({"site-packages", "dist-packages", "test", "tests", "include", "__pycache__"})
#: Linux reads no more for one request than the device's read-ahead, and this is the usual one.
STEP_BYTES = 128 * 1024


def hold_python_in_page_cache() -> None:
    """Ask the kernel to read what is missing; the pages are charged to us before this returns. 30 ms where none is."""
    for path in python_files():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset in range(0, os.fstat(descriptor).st_size, STEP_BYTES):
                os.posix_fadvise(descriptor, offset, STEP_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


@cache
def python_files() -> tuple[Path, ...]:
    """Shared objects and compiled modules of the interpreter, torch and what the stack imports, as far as we may read them.

    And the system's libraries that these are linked with.
    """
    found = (
        *_interpreter(),
        *_system_libraries(),
        *(path for folder in _folders() for path in _read_by_imports(folder)),
    )
    return tuple(path for path in found if os.access(path, os.R_OK))


def _interpreter() -> Iterator[Path]:
    """The executable, and the library that it is linked with where it has one."""
    yield base_interpreter()
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if folder and name and (library := Path(folder, name)).is_file():
        yield library


def _system_libraries() -> Iterator[Path]:
    """All shared objects of this process, which has imported what brings them. Source: proc_pid_maps(5)."""
    for name in (*LINKED, "numpy"):
        with suppress(ImportError):  # some builds of Python lack one, and torch does without
            import_module(name)
    mapped = {
        line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line
    }
    yield from (path for path in map(Path, sorted(mapped)) if ".so" in path.suffixes)


def _folders() -> Iterator[Path]:
    yield Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            yield from (package, package.with_name(f"{name}.libs"))


def _read_by_imports(folder: Path) -> Iterator[Path]:
    """A module's compiled form, its source where it has none."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_IMPORTED]
        for path in (Path(parent, name) for name in names):
            if path.suffix == ".py":
                compiled = Path(cache_from_source(str(path)))
                yield compiled if compiled.is_file() else path
            elif ".so" in path.suffixes:
                yield path
