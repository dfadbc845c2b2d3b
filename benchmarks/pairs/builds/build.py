"""Builds a tree for measuring, in the same class of sandbox that measures it, without network.

Every Python source is compiled to bytecode in memory, which finds what does not parse before any pair is started. Where
a tree has `.cpp` files in `model/csrc`, these become one shared library with fixed flags, in a sandbox that has `model/csrc` of
the tree and nothing else of it. It leaves the sandbox through the pipe and is put where `model/native.py` looks for it,
into the tree's own folder: that folder is written fresh for one run and mounted read-only as one side's `/tree/model`,
so the other side sees nothing of it. Base and candidate go through the same steps. Nothing here ever loads it.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.side import SideFailed
from benchmarks.sandbox import Completed, Limits, Mount, SandboxLevel, python_runtime, run
from model import kernel_ways

log = logging.getLogger(__name__)

PROGRAM = "/harness/build.py"
INSIDE = "/tree/model"
SOURCES = "csrc"  # below model/
LIBRARY = "_native.so"  # next to model/native.py
CPU_S = 120.0  # a minute of each of the two compilers that run at once
IDLE_S = 60.0
WALL_S = 600.0  # more than both together, so that only a runner which is busy with other work comes so far
MEMORY_BYTES = 1536 << 20
PIDS = 32
LOG_BYTES = 64 * 1024
MAX_LIBRARY_BYTES = 8 << 20
MAX_MESSAGE_CHARACTERS = 3_000
UNMEASURED = (
    "this processor was not measured, so kernels choose by its instructions: run `python -m model.native build` as this "
    "user, then start again"
)

#: What the sandbox has: /usr is mounted as it is. A tree has no say in the compiler or its flags. The ways of kernels that
#: were measured on this processor follow as definitions (`model/kernel_ways.py`).
COMPILERS = ("/usr/bin/g++", "/usr/bin/c++")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-frandom-seed=gainshare",  # with a stripped result: equal sources give equal bytes
    "-s",
    "-Wno-psabi",  # says where vectors are wider than the processor's, which is no fault
    "-Wl,--no-undefined",
    "-Wl,-z,noexecstack",
)


def build_tree(
    name: str,
    tree: Path,
    *,
    level: SandboxLevel,
    slot: int,
    on_log: Callable[[str], None] | None = None,
    cancellation: Cancellation | None = None,
) -> Path | None:
    """Check the sources below `tree`/model and build its library; its path, or None for a tree of Python only.

    Raises SideFailed as `check_tree` and `compile_native` do, and Cancelled.
    """
    check_tree(name, tree, level=level, slot=slot, cancellation=cancellation)
    library = compile_native(name, tree, level=level, slot=slot, on_log=on_log, cancellation=cancellation)
    return place(tree, library, name) if library else None


def check_tree(
    name: str, tree: Path, *, level: SandboxLevel, slot: int, cancellation: Cancellation | None = None
) -> None:
    """Check that all Python sources parse and that there is no binary.

    Raises SideFailed at stage "build": build_failed, timeout, resource_limit, or infrastructure_error where other work
    kept the processor. Raises Cancelled.
    """
    if (tree / "model" / LIBRARY).exists() and not has_native(tree):
        raise SideFailed(
            "build_failed", name, "build", f"a tree may not contain model/{LIBRARY}: the runner builds it"
        )
    _refuse_failure(name, _run(Mount(tree / "model", INSIDE), (), level, slot, cancellation))


def compile_native(
    name: str,
    tree: Path,
    *,
    level: SandboxLevel,
    slot: int,
    on_log: Callable[[str], None] | None = None,
    cancellation: Cancellation | None = None,
) -> bytes:
    """The library's bytes, which follow from `sources_digest` and the compiler; empty for a tree of Python only.

    What the compiler says goes to `on_log`, bounded. Raises SideFailed as `check_tree` does, and infrastructure_error
    also where this runner has no compiler and the tree needs one. Raises Cancelled.
    """
    if not has_native(tree):
        return b""
    sources = Mount(tree / "model" / SOURCES, f"{INSIDE}/{SOURCES}")
    done = _run(sources, _compiler(name), level, slot, cancellation)
    _refuse_failure(name, done)
    said = done.stderr_tail.strip()
    if said and on_log is not None:
        on_log("".join(f"[{name}, build] {line}\n" for line in _bounded(said).splitlines()))
    _refuse_other_files(name, done.stdout)
    return done.stdout


def has_native(tree: Path) -> bool:
    """True if there is anything to compile."""
    return any((tree / "model" / SOURCES).rglob("*.cpp"))


def sources_digest(tree: Path) -> str:
    """SHA-256 of all that a compiler gets to see of `tree`: names and bytes below `model/csrc`."""
    digest = hashlib.sha256()
    folder = tree / "model" / SOURCES
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _run(
    sources: Mount,
    command: tuple[str, ...],
    level: SandboxLevel,
    slot: int,
    cancellation: Cancellation | None,
) -> Completed:
    runtime = python_runtime()
    return run(
        [*runtime.argv, PROGRAM, INSIDE, *command],
        level=level,
        mounts=[*runtime.mounts, Mount(Path(__file__).with_name("inside.py"), PROGRAM), sources],
        limits=Limits(
            memory_bytes=MEMORY_BYTES,
            pids=PIDS,
            wall_s=WALL_S,
            cpu_s=CPU_S,
            idle_s=IDLE_S,
            log_bytes=LOG_BYTES,
        ),
        env=runtime.env,
        slot=slot,
        timeout_s=WALL_S,
        output_limit_bytes=MAX_LIBRARY_BYTES,
        cancellation=cancellation,
    )


def _compiler(name: str) -> tuple[str, ...]:
    found = next((path for path in map(shutil.which, COMPILERS) if path is not None), None)
    if found is None:
        detail = "the tree has C++ sources, and this runner has no compiler: install g++ on it (apt-get install g++)"
        raise SideFailed("infrastructure_error", name, "build", detail)
    try:
        return (found, *FLAGS, *ways().flags())
    except kernel_ways.KernelWaysError as error:
        raise SideFailed("infrastructure_error", name, "build", str(error)) from error


def ways() -> kernel_ways.Ways:
    """How kernels multiply in all trees that this process builds. Raises KernelWaysError."""
    found = rates()
    return kernel_ways.UNMEASURED if found is None else kernel_ways.ways_of(found)


@cache
def rates() -> kernel_ways.Rates | None:
    """This processor's, read once, so that both sides of a pair go by the same; None where none were measured."""
    found = kernel_ways.measured(kernel_ways.kernels_folder())
    if found is None:
        log.warning("%s", UNMEASURED)
    return found


def _refuse_lateness(name: str, done: Completed) -> None:
    """Refuse a build that did not end: by what the sandbox's outside counted, not by the clock alone."""
    used = f"{done.cpu_ns / 1e9:.1f} s of processor time"
    if done.limit == "cpu":
        detail = f"the build used {used}, more than the {CPU_S:.0f} s that it may"
        raise SideFailed("timeout", name, "build", detail)
    if done.limit == "idle":
        detail = f"the build used {used}, and for {IDLE_S:.0f} s waited for something else than a processor"
        raise SideFailed("timeout", name, "build", detail)
    if done.timed_out:
        detail = f"other work kept the build waiting: in {WALL_S:.0f} s it was given {used}"
        raise SideFailed("infrastructure_error", name, "build", detail)


def _refuse_failure(name: str, done: Completed) -> None:
    _refuse_lateness(name, done)
    if done.limit == "output":
        size = f"{MAX_LIBRARY_BYTES >> 20} MiB"
        raise SideFailed("resource_limit", name, "build", f"the built library is larger than {size}")
    if done.resource_limited:
        raise SideFailed("resource_limit", name, "build", f"the limit of {done.limit} was reached")
    if done.returncode != 0:
        raise SideFailed(
            "build_failed", name, "build", _bounded(done.stderr_tail.strip()) or "no reason given"
        )


def _refuse_other_files(name: str, library: bytes) -> None:
    """A 64-bit ELF shared object by its head; its code runs in the sandbox of its side only."""
    if library[:5] != b"\x7fELF\x02" or library[16:18] != b"\x03\x00":
        raise SideFailed("build_failed", name, "build", "the compiler's result is not a shared library")


def compiler_identity() -> str:
    """Names the compiler as it is now: another one builds something else. Empty where there is none."""
    found = next((path for path in map(shutil.which, COMPILERS) if path is not None), None)
    if found is None:
        return ""
    status = Path(found).resolve().stat()
    return f"{found} {status.st_size} {status.st_mtime_ns}"


def place(tree: Path, library: bytes, name: str) -> Path:
    """Put a built library into `tree`, whole or not at all. In a control of a tree against itself the later one stays."""
    target = tree / "model" / LIBRARY
    partial = target.with_suffix(f".{name}")
    for taken in (target, partial):
        if taken.is_dir():
            raise SideFailed(
                "build_failed",
                name,
                "build",
                f"a tree may not have a folder model/{taken.name}: the runner builds it",
            )
    partial.unlink(missing_ok=True)
    partial.write_bytes(library)
    partial.chmod(0o444)  # for the sandbox's own uids
    partial.replace(target)
    return target


def _bounded(text: str) -> str:
    """A compiler's first errors explain the others, its last line says how it ended."""
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    tail = MAX_MESSAGE_CHARACTERS // 5
    return f"{text[: MAX_MESSAGE_CHARACTERS - tail]}\n[...]\n{text[-tail:]}"
