"""Find or build the library of compiled kernels (all `.cpp` files of `model/csrc`, plain C interface).

    lib = native.library()      # ctypes.CDLL, or None: then use torch
    python -m model.native build
    python -m model.native measure
    python -m model.native state

A judge builds the library itself and puts it next to this file. A served stack builds it once, by the command above
(which `make` runs after the install) or when a kernel is first used, under a name made of sources, flags, compiler and
processor, in the `native` folder of its home or in GAINSHARE_KERNELS, which several homes of one user may share.
Before the first build on a processor its rates are measured, which decide between two ways of some kernels
(`model/kernel_ways.py`). Without sources, without a compiler, or if the build fails there is no library: `available()`
and `state()` report it, and the log does once. Does not import torch.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from model import kernel_ways
from model.home import FolderNotOwnError, make_own
from model.kernel_ways import UNMEASURED, KernelWaysError, Rates, Ways, kernels_folder, processor

log = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().with_name("csrc")
BUILT_BY_JUDGE = Path(__file__).resolve().with_name("_native.so")
COMPILE_TIMEOUT_S = 120.0
MEASURE_TIMEOUT_S = 120.0
#: What is measured before the whole is built.
MEASURED = ("rates.cpp", "linear_fused.cpp")
#: The judge has its own copy of these, so that a patch here changes nothing about how it is measured.
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-frandom-seed=gainshare",
    "-s",
    "-Wno-psabi",  # vectors wider than the processor's are passed to inlined functions only
    "-Wl,--no-undefined",
    "-Wl,-z,noexecstack",
)


class NativeBuildError(Exception):
    """The library cannot be built; the message says why and what to do."""


_COMMANDS = {
    "build": "compile the kernels if needed and print the library's path",
    "measure": "measure this processor again, on a quiet machine, and compile what follows from it",
    "state": "print which library is used, and the rates that it rests on",
}


_in_use: Path | None = None  # instead of what would be found


@dataclass(frozen=True)
class _Native:
    library: ctypes.CDLL | None
    state: str


def library() -> ctypes.CDLL | None:
    """The compiled kernels, loaded once per process, or None where callers must use torch."""
    return _load().library


def use(path: Path) -> None:
    """Use the library at `path` in this process, which must not have used a kernel yet."""
    global _in_use
    _load.cache_clear()
    _in_use = path


def available() -> bool:
    """Whether `library` gives one."""
    return _load().library is not None


def state() -> str:
    """Text for users: the library that is used, or why there is none."""
    return _load().state


def _state_and_rates() -> str:
    """What `state` prints. Raises NativeBuildError and KernelWaysError."""
    library = BUILT_BY_JUDGE if BUILT_BY_JUDGE.is_file() else build()
    rates = kernel_ways.measured(kernels_folder())
    ways = "nothing was measured on this processor" if rates is None else kernel_ways.text_of(rates)
    return f"native kernels: {library}\n{ways}"


def build(home: Path | None = None) -> Path:
    """The library for this machine's processor, compiled where it is not there yet.

    Raises NativeBuildError, and KernelWaysError where a way is forced that there is not.
    """
    sources = sorted(SOURCES.rglob("*.cpp"))
    if not sources:
        raise NativeBuildError(f"this tree has no C++ sources ({SOURCES})")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NativeBuildError("there is no C++ compiler: install one (Debian: apt-get install g++)")
    folder = _own_folder(home)
    flags = (*FLAGS, *_ways(folder, compiler).flags())
    target = folder / f"{_key(compiler, flags)}.so"
    if not target.is_file():
        _compile([compiler, *flags], sources, target)
    return target


def _ways(folder: Path, compiler: str) -> Ways:
    """The kernels' ways on this processor, measured where nothing was kept. Raises NativeBuildError and KernelWaysError.

    Sources without what is measured have no choice.
    """
    measured = [SOURCES / name for name in MEASURED]
    if not all(path.is_file() for path in measured):
        return UNMEASURED
    rates = kernel_ways.measured(folder)
    if rates is None:
        rates = kernel_ways.keep(folder, _measure(folder, compiler, measured))
    return kernel_ways.ways_of(rates)


def _measure_again() -> str:
    """What `measure` prints. Raises NativeBuildError and KernelWaysError."""
    kernel_ways.forget(kernels_folder())
    return _state_and_rates()


def _measure(folder: Path, compiler: str, sources: list[Path]) -> Rates:
    """The rates of this processor, those of bf16 by the way that the others decide."""
    rates = _rates_of(folder, [compiler, *FLAGS], sources)
    if kernel_ways.ways_of(rates).bf16 == "fma" and rates.dot:
        rates = _rates_of(folder, [compiler, *FLAGS, *Ways(bf16="fma").flags()], sources)
    return rates


def _rates_of(folder: Path, command: list[str], sources: list[Path]) -> Rates:
    with tempfile.TemporaryDirectory(prefix=".measure-", dir=folder) as build:
        library = Path(build) / "measured.so"
        _compile(command, sources, library)
        measure = [sys.executable, "-m", "model.kernel_rates", str(library)]
        printed = _run(measure, timeout_s=MEASURE_TIMEOUT_S, cwd=Path(__file__).resolve().parents[1])
    return Rates(**json.loads(printed))


@cache
def _load() -> _Native:
    """Load the library, and log once which one: without it the stack would be slow without a message."""
    try:
        path = _in_use or (BUILT_BY_JUDGE if BUILT_BY_JUDGE.is_file() else build())
        found = _Native(ctypes.CDLL(str(path)), f"native kernels: {path}")
        log.info("%s", found.state)
    except (NativeBuildError, KernelWaysError, OSError) as error:
        found = _Native(None, f"no native kernels, torch is used instead: {error}")
        log.warning("%s", found.state)
    return found


def _own_folder(home: Path | None) -> Path:
    """The folder of builds, private to this user because its files are executed."""
    folder = kernels_folder(home)
    try:
        make_own(folder)
    except OSError as error:
        raise NativeBuildError(
            f"{folder} cannot be made ({error.strerror}): set GAINSHARE_HOME or GAINSHARE_KERNELS to a folder that you can write to"
        ) from error
    except FolderNotOwnError as error:
        raise NativeBuildError(str(error)) from error
    return folder


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """Name of a build, a hash of sources, flags, compiler and processor."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False, timeout=30).stdout
    for part in (*flags, compiler, version.decode(errors="replace"), platform.machine(), *processor()):
        digest.update(part.encode() + b"\0")
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(SOURCES)} {len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def _compile(command: list[str], sources: list[Path], target: Path) -> None:
    """Compile each source in its own process. The target appears whole, so that several processes may build at once."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        objects = [f"{folder}/{number}.o" for number in range(len(sources))]
        commands = [
            [*command, "-I", str(SOURCES), "-c", str(source), "-o", built]
            for source, built in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))  # the list raises what one of them raised
        partial = Path(folder) / "_native.so"
        _run([*command, *objects, "-o", str(partial)])
        partial.chmod(0o755)
        partial.replace(target)


def _run(command: list[str], *, timeout_s: float | None = None, cwd: Path | None = None) -> str:
    """What the command printed. Raises NativeBuildError where it fails."""
    timeout_s = COMPILE_TIMEOUT_S if timeout_s is None else timeout_s
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        raise NativeBuildError(f"{command[0]} took more than {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise NativeBuildError(f"{command[0]} failed: {done.stderr.strip()[:2000]}")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Run the command; status 0 if the library is there, 1 if it cannot be built, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.native", description="Compile the stack's own kernels."
    )
    told = "; ".join(f"{name}: {about}" for name, about in _COMMANDS.items())
    parser.add_argument("command", choices=list(_COMMANDS), help=told)
    command = parser.parse_args(arguments).command
    run = {"build": lambda: str(build()), "measure": _measure_again, "state": _state_and_rates}[command]
    try:
        sys.stdout.write(f"{run()}\n")
    except (NativeBuildError, KernelWaysError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
