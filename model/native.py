"""Find or build the library of compiled kernels (all `.cpp` files of `model/csrc`, plain C interface).

    lib = native.library()      # ctypes.CDLL, or None: then use torch
    python -m model.native build

A judge builds the library itself and puts it next to this file. A served stack builds it once, by the command above
(which `make` runs after the install) or when a kernel is first used, under a name made of sources, flags, compiler and
processor, in the `native` folder of its home or in GAINSHARE_KERNELS, which several homes of one user may share.
Without sources, without a compiler, or if the build fails there is none: `available()` and `state()` report it, and
the log does once. Does not import torch.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
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

from model.home import FolderNotOwnError, home_folder, make_own

log = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().with_name("csrc")
BUILT_BY_JUDGE = Path(__file__).resolve().with_name("_native.so")
COMPILE_TIMEOUT_S = 120.0
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


@dataclass(frozen=True)
class _Native:
    library: ctypes.CDLL | None
    state: str


def library() -> ctypes.CDLL | None:
    """The compiled kernels, loaded once per process, or None where callers must use torch."""
    return _load().library


def available() -> bool:
    """Whether `library` gives one."""
    return _load().library is not None


def state() -> str:
    """Text for users: the library that is used, or why there is none."""
    return _load().state


def build(home: Path | None = None) -> Path:
    """The library for this machine's processor, compiled where it is not there yet. Raises NativeBuildError."""
    sources = sorted(SOURCES.rglob("*.cpp"))
    if not sources:
        raise NativeBuildError(f"this tree has no C++ sources ({SOURCES})")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NativeBuildError("there is no C++ compiler: install one (Debian: apt-get install g++)")
    folder = _own_folder(home)
    target = folder / f"{_key(compiler)}.so"
    if not target.is_file():
        _compile([compiler, *FLAGS], sources, target)
    return target


@cache
def _load() -> _Native:
    """Load the library, and log once which one: without it the stack would be slow without a message."""
    try:
        path = BUILT_BY_JUDGE if BUILT_BY_JUDGE.is_file() else build()
        found = _Native(ctypes.CDLL(str(path)), f"native kernels: {path}")
        log.info("%s", found.state)
    except (NativeBuildError, OSError) as error:
        found = _Native(None, f"no native kernels, torch is used instead: {error}")
        log.warning("%s", found.state)
    return found


def _own_folder(home: Path | None) -> Path:
    """The folder of builds, private to this user because its files are executed."""
    folder = _folder(home)
    try:
        make_own(folder)
    except OSError as error:
        raise NativeBuildError(
            f"{folder} cannot be made ({error.strerror}): set GAINSHARE_HOME or GAINSHARE_KERNELS to a folder that you can write to"
        ) from error
    except FolderNotOwnError as error:
        raise NativeBuildError(str(error)) from error
    return folder


def _folder(home: Path | None) -> Path:
    """GAINSHARE_KERNELS if `home` is not given, else `HOME/native`."""
    shared = os.environ.get("GAINSHARE_KERNELS")
    return Path(shared) if home is None and shared else home_folder(home) / "native"


def _key(compiler: str) -> str:
    """Name of a build, a hash of sources, flags, compiler and processor."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False, timeout=30).stdout
    for part in (*FLAGS, compiler, version.decode(errors="replace"), platform.machine(), *processor()):
        digest.update(part.encode() + b"\0")
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(SOURCES)} {len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def processor() -> list[str]:
    """Model and instruction sets of the first core, as `-march=native` reads them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    return sorted({line for line in lines if line.split("\t")[0].strip(": ") in wanted})


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


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NativeBuildError(f"{command[0]} took more than {COMPILE_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise NativeBuildError(f"{command[0]} failed: {done.stderr.strip()[:2000]}")


def main(arguments: list[str]) -> int:
    """Run the command; status 0 if the library is there, 1 if it cannot be built, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.native", description="Compile the stack's own kernels."
    )
    parser.add_argument(
        "command", choices=["build"], help="compile the kernels if needed and print the library's path"
    )
    parser.parse_args(arguments)
    try:
        sys.stdout.write(f"{build()}\n")
    except NativeBuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
