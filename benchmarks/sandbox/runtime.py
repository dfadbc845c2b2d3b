"""Python for a sandbox: the interpreter and the installed packages, but never this project's checkout.

Packages are mounted at one fixed folder and named by PYTHONPATH. `.pth` files there are not followed, so the
editable pointer of a development install leads nowhere.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.sandbox.levels import Mount

PACKAGES_TARGET = "/packages"
#: Ourselves, where we are installed as packages: samples get their `model` from a tree, and nothing else of ours.
OWN_PACKAGES = ("gainshare", "bounty", "benchmarks", "model")
#: -S: no site folders in addition to PYTHONPATH; -s: no user site; -B: no bytecode is written next to read-only sources.
FLAGS = ("-S", "-s", "-B")


@cache
def base_interpreter() -> Path:
    """The real executable behind this virtual environment, links resolved."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


@cache
def interpreter_mounts() -> tuple[Mount, ...]:
    """The interpreter's own prefixes, at the paths compiled into it. Empty for one below /usr, which is mounted whole."""
    prefixes = {
        Path(sys.base_prefix).resolve(),
        Path(sys.base_exec_prefix).resolve(),
        base_interpreter().parents[1],
    }
    outside = sorted(prefix for prefix in prefixes if not prefix.is_relative_to("/usr"))
    return tuple(Mount(prefix, str(prefix)) for prefix in outside)


@dataclass(frozen=True)
class PythonRuntime:
    """Additions to `spawn` that run Python inside: an argv prefix, mounts and environment variables."""

    argv: tuple[str, ...]
    mounts: tuple[Mount, ...]
    env: Mapping[str, str]


def python_runtime(*, path: Iterable[str] = (), threads: int = 1) -> PythonRuntime:
    """Python with the installed packages, `path` (folders inside the sandbox, e.g. "/tree") searched first.

    `threads` is the number of OpenMP and BLAS threads.
    """
    packages = _package_mounts()
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/work",
        "TMPDIR": "/work",
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join([*path, *(mount.target for mount in packages)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    return PythonRuntime(argv=(str(base_interpreter()), *FLAGS), mounts=packages, env=env)


def _package_mounts() -> tuple[Mount, ...]:
    """Pure and binary packages live apart on some systems."""
    folders = dict.fromkeys(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    return tuple(
        Mount(folder, f"{PACKAGES_TARGET}{index or ''}", hide=OWN_PACKAGES)
        for index, folder in enumerate(folders)
    )
