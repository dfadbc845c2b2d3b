"""Builds in real sandboxes: what they make, and what hostile sources come to."""

import ctypes
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs.builds import build as build_module
from benchmarks.pairs.builds.build import FLAGS, LIBRARY, build_tree, place
from benchmarks.pairs.side import SideFailed
from benchmarks.sandbox import Completed, Limits, Mount, best_level, python_runtime, run
from model import kernel_ways, native
from model.kernel_ways import Rates
from tests.benchmarks.pairs.busy_core import busy
from tests.benchmarks.pairs.slow_source import slow_source

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(120)]

EXPORT = 'extern "C" __attribute__((visibility("default"))) '
ADD = EXPORT + "int add(int a, int b) { return a + b; }\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Readable for the sandbox's own uids, as a runner's tree folders are."""
    with tempfile.TemporaryDirectory(prefix="gainshare-build-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def tree(folder: Path, files: Mapping[str, str]) -> Path:
    """A tree of `files` below model/."""
    for path, text in {"__init__.py": "", **files}.items():
        target = folder / "model" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o644)
    return folder


def build(folder: Path, files: Mapping[str, str]) -> Path | None:
    return build_tree("candidate", tree(folder, files), level=best_level(), slot=1)


def failure(folder: Path, files: Mapping[str, str]) -> SideFailed:
    with pytest.raises(SideFailed) as caught:
        build(folder, files)
    assert caught.value.stage == "build" and caught.value.side == "candidate"
    assert not (folder / "model" / LIBRARY).exists()
    return caught.value


# -- what is built -----------------------------------------------------------------------------------


def test_a_tree_of_python_only_has_no_library(folder: Path) -> None:
    assert build(folder, {"layers.py": "x = 1\n", "csrc/notes.md": "nothing to compile"}) is None


def test_all_sources_become_one_library_next_to_the_loader(folder: Path) -> None:
    files = {
        "csrc/add.cpp": '#include "twice.h"\n' + ADD,
        "csrc/twice.h": "int twice(int);\n",
        "csrc/twice.cpp": '#include "twice.h"\nint twice(int a) { return 2 * a; }\n'
        + EXPORT
        + "int quadruple(int a) { return twice(twice(a)); }\n",
    }
    library = build(folder, files)
    assert library == folder / "model" / "_native.so"
    assert library.stat().st_mode & 0o777 == 0o444
    loaded = ctypes.CDLL(str(library))
    assert loaded.add(2, 3) == 5 and loaded.quadruple(3) == 12
    assert not hasattr(loaded, "twice")  # only what is exported by name can be reached


def test_sources_of_equal_names_in_several_folders_are_all_compiled(folder: Path) -> None:
    files = {
        "csrc/step.cpp": '#include "serving/one.h"\n' + EXPORT + "int above() { return ONE; }\n",
        "csrc/serving/one.h": "enum { ONE = 1 };\n",
        "csrc/serving/step.cpp": '#include "serving/one.h"\n' + EXPORT + "int below() { return ONE + 1; }\n",
    }
    loaded = ctypes.CDLL(str(build(folder, files)))
    assert (loaded.above(), loaded.below()) == (1, 2)


def test_equal_sources_give_equal_bytes_wherever_they_are_built(folder: Path) -> None:
    sources = {"csrc/add.cpp": ADD + "namespace { int hidden = 3; }\nint *where() { return &hidden; }\n"}
    libraries = []
    for name, slot in (("base", 0), ("candidate", 1)):
        (folder / name).mkdir(mode=0o755)
        library = build_tree(name, tree(folder / name, sources), level=best_level(), slot=slot)
        assert library is not None
        libraries.append(library.read_bytes())
    assert libraries[0] == libraries[1]


def test_a_tree_against_itself_is_built_twice_into_the_same_place(folder: Path) -> None:
    assert build(folder, {"csrc/add.cpp": ADD}) == build(folder, {})


def test_warnings_reach_the_log_and_are_bounded(folder: Path) -> None:
    said: list[str] = []
    warnings = "\n".join(f"#warning number-{n} {'x' * 200}" for n in range(200))
    build_tree(
        "candidate",
        tree(folder, {"csrc/add.cpp": f"{warnings}\n{ADD}"}),
        level=best_level(),
        slot=1,
        on_log=said.append,
    )
    assert "[candidate, build] " in said[0] and "number-0 " in said[0]
    assert len(said[0]) < 2 * build_module.MAX_MESSAGE_CHARACTERS


def test_judge_and_served_stack_compile_with_the_same_flags() -> None:
    assert FLAGS == native.FLAGS


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor on which products of bf16 pairs are slower than fp32's, and torch's linear maps faster than ours."""
    rates = Rates(fma=2e9, dot=1e9, fp32_own=1e9, fp32_torch=2e9, bf16_own=2e9, bf16_torch=1e9)
    kernel_ways.keep(tmp_path, rates)
    monkeypatch.setenv("GAINSHARE_KERNELS", str(tmp_path))
    monkeypatch.delenv(kernel_ways.FORCED, raising=False)
    build_module.rates.cache_clear()
    yield
    build_module.rates.cache_clear()


WAYS = (
    EXPORT + "int ways() { return BF16_BY_FMA * 100 + FP32_LINEAR_BY_TORCH * 10 + BF16_LINEAR_BY_TORCH; }\n"
)


@pytest.mark.usefixtures("measured")
def test_every_tree_of_a_process_takes_the_measured_ways(folder: Path, tmp_path: Path) -> None:
    answers = []
    for name in ("base", "candidate"):
        (folder / name).mkdir(mode=0o755)
        library = build_tree(name, tree(folder / name, {"csrc/ways.cpp": WAYS}), level=best_level(), slot=1)
        answers.append(ctypes.CDLL(str(library)).ways())
        for file in tmp_path.glob("rates-*"):  # what is measured meanwhile does not divide the two
            file.unlink()
    assert answers == [110, 110]


@pytest.mark.usefixtures("measured")
def test_an_unknown_way_is_the_runner_s_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel_ways.FORCED, "other")
    failed = failure(folder, {"csrc/ways.cpp": WAYS})
    assert failed.kind == "infrastructure_error" and "set it to 'fma' or 'dot'" in failed.detail


def test_a_processor_that_was_not_measured_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAINSHARE_KERNELS", str(tmp_path))
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", tmp_path)
    build_module.rates.cache_clear()
    assert build_module.ways() == kernel_ways.UNMEASURED
    build_module.rates.cache_clear()
    assert "run `python -m model.native build`" in caplog.text


# -- what does not build -----------------------------------------------------------------------------


def test_python_that_does_not_parse_is_named(folder: Path) -> None:
    found = failure(folder, {"layers/moe/layer.py": "def broken(:\n", "csrc/add.cpp": ADD})
    assert found.kind == "build_failed" and "/tree/model/layers/moe/layer.py" in found.detail


def test_the_compiler_s_first_error_is_the_reason(folder: Path) -> None:
    nonsense = "\n".join(f"undeclared_{n} x{n};" for n in range(300))
    found = failure(folder, {"csrc/add.cpp": nonsense})
    assert found.kind == "build_failed"
    assert "undeclared_0" in found.detail and "ended with status 1" in found.detail
    assert len(found.detail) < 4_000


def test_a_function_that_no_one_defines_is_found_at_build_time(folder: Path) -> None:
    found = failure(folder, {"csrc/add.cpp": "int missing();\n" + EXPORT + "int f() { return missing(); }\n"})
    assert found.kind == "build_failed" and "missing" in found.detail


def test_a_tree_may_not_bring_a_library_of_its_own(folder: Path) -> None:
    with pytest.raises(SideFailed, match="the runner builds it") as caught:
        build(folder, {LIBRARY: "\x7fELF"})
    assert caught.value.kind == "build_failed"


def test_a_runner_without_a_compiler_is_at_fault_and_not_the_patch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "COMPILERS", ("/usr/bin/no-such-compiler",))
    found = failure(folder, {"csrc/add.cpp": ADD})
    assert found.kind == "infrastructure_error" and "install g++" in found.detail
    (folder / "model/csrc/add.cpp").unlink()
    assert build(folder, {}) is None  # trees of Python only are still built


# -- hostile sources ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        '#include "/etc/passwd"\n',
        '#include "/proc/1/environ"\n',
        f'#include "{Path(build_module.__file__)}"\n',
        f'#include "{Path(__file__)}"\n',
        '#include "../layers.py"\n',  # nor anything else of the tree, or equal sources could give other libraries
        '#include "/tree/model/__init__.py"\n',
    ],
)
def test_nothing_but_the_tree_s_sources_is_there_to_be_included(folder: Path, source: str) -> None:
    found = failure(folder, {"layers.py": "", "csrc/add.cpp": source + ADD})
    assert found.kind == "build_failed"
    assert "No such file" in found.detail or "error" in found.detail
    assert "root:" not in found.detail and "PATH=" not in found.detail


TOKEN = "a-token-that-must-stay-outside"


@pytest.mark.parametrize("process", ["self", "1"])
def test_the_environment_of_a_build_holds_nothing_of_the_runner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    """`.include` prints what it cannot read as assembly, so the message shows what was there to be seen."""
    monkeypatch.setenv("GAINSHARE_RUNNER_TOKEN", TOKEN)
    found = failure(folder, {"csrc/add.cpp": f'asm(".include \\"/proc/{process}/environ\\"");\n{ADD}'})
    assert found.kind == "build_failed"
    assert TOKEN not in found.detail and "RUNNER" not in found.detail


def test_incbin_brings_nothing_of_the_runner_into_the_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINSHARE_RUNNER_TOKEN", TOKEN)
    source = 'asm(".data\\n.incbin \\"/proc/self/environ\\"\\n.text");\n'
    library = build(folder, {"csrc/add.cpp": source + ADD})
    assert library is not None and TOKEN.encode() not in library.read_bytes()
    assert ctypes.CDLL(str(library)).add(1, 1) == 2


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        # 3^n instantiations of a template: memory or time, or the compiler's own depth
        (
            "template<long N, long P> struct T { T<N-1, 3*P> a; T<N-1, 3*P+1> b; T<N-1, 3*P+2> c; };\n"
            "template<long P> struct T<0, P> { char x; };\nT<16, 0> bomb;\n",
            {"resource_limit", "timeout", "build_failed"},
        ),
        ("char x[1 << 30] = {1};\n", {"build_failed", "resource_limit"}),
        ('#include "/dev/zero"\n', {"build_failed", "resource_limit"}),
        ('asm(".incbin \\"/dev/zero\\"");\n', {"build_failed", "resource_limit", "timeout"}),
        ('asm(".fill 12000000, 1, 7");\n', {"resource_limit"}),
    ],
    ids=["templates", "array", "include-zero", "incbin-zero", "large-library"],
)
def test_compile_bombs_end_at_their_limits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, kinds: set[str]
) -> None:
    monkeypatch.setattr(build_module, "CPU_S", 6.0)
    monkeypatch.setattr(build_module, "MEMORY_BYTES", 256 << 20)
    found = failure(folder, {"csrc/bomb.cpp": source + ADD})
    assert found.kind in kinds, found
    assert len(found.detail) < 4_000


# -- how long a build may take ------------------------------------------------------------------------


def used_s(found: SideFailed) -> float:
    """The processor time that a message names."""
    named = re.search(r"([\d.]+) s of processor time", found.detail)
    assert named is not None, found.detail
    return float(named[1])


def test_a_build_without_end_is_ended_at_its_processor_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "CPU_S", 4.0)
    found = failure(folder, {f"csrc/{name}.cpp": slow_source(400, name) for name in ("one", "two")})
    assert found.kind == "timeout" and "more than the 4 s that it may" in found.detail
    assert used_s(found) >= 4.0


@pytest.mark.measures
def test_other_work_on_the_runner_costs_a_patch_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built at the same time, a tree takes longer by the clock than its limit of processor time, which it does not reach."""
    ended: list[Completed] = []

    def run_and_note(*arguments: Any, **options: Any) -> Completed:
        ended.append(run(*arguments, **options))
        return ended[-1]

    def build_s() -> float:
        begun = time.monotonic()
        assert build(folder, files) is not None
        return time.monotonic() - begun

    core, files = max(os.sched_getaffinity(0)), {"csrc/add.cpp": ADD + slow_source(2, terms=20_000)}
    monkeypatch.setattr(build_module, "run", run_and_note)
    monkeypatch.setattr(build_module, "Limits", partial(Limits, cores=(core,)))
    with busy(core, 3):  # a processor that changes between programs gets less done in the same processor time
        limit_s = math.sqrt(build_s() * max(done.cpu_ns for done in ended) / 1e9)
        monkeypatch.setattr(build_module, "CPU_S", limit_s)
        assert build_s() > limit_s


@pytest.mark.measures
def test_a_runner_that_has_no_time_for_a_build_is_at_fault_and_not_the_patch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = max(os.sched_getaffinity(0))
    monkeypatch.setattr(build_module, "Limits", partial(Limits, cores=(core,)))
    for name, seconds in {"CPU_S": 4.0, "IDLE_S": 3.0, "WALL_S": 12.0}.items():
        monkeypatch.setattr(build_module, name, seconds)
    with busy(core, 12):
        found = failure(folder, {"csrc/slow.cpp": slow_source(400)})
    assert found.kind == "infrastructure_error" and "in 12 s it was given" in found.detail
    assert used_s(found) < 4.0


def test_a_build_that_waits_for_ever_is_the_patch_s_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler reads from a new terminal, which no one will ever type into."""
    monkeypatch.setattr(build_module, "IDLE_S", 3.0)
    found = failure(folder, {"csrc/add.cpp": '#include "/dev/ptmx"\n' + ADD})
    assert found.kind == "timeout" and "for 3 s waited for something else" in found.detail


def test_only_what_stood_in_line_comes_to_the_clock_s_limit() -> None:
    assert build_module.WALL_S > 2 * (build_module.CPU_S + build_module.IDLE_S)


# A library may do what it likes to the process that loads it. That process is a sample: its clocks are no one's.
HOSTILE = """
#include <cstdio>
#include <ctime>
#define EXPORT extern "C" __attribute__((visibility("default")))
__attribute__((constructor)) static void started() { fputs("constructor ran\\n", stderr); }
EXPORT int clock_gettime(clockid_t, timespec *t) { t->tv_sec = t->tv_nsec = 0; return 0; }
EXPORT void *memcpy(void *to, const void *, unsigned long) { return to; }
EXPORT long write(int, const void *, unsigned long n) { return n; }
EXPORT int seconds() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec; }
"""

LOADED_INSIDE = """
import ctypes, os, sys, time
lib = ctypes.CDLL("/tree/model/_native.so")
before = time.monotonic_ns()
assert lib.seconds() in (0, int(time.monotonic())) and before > 0
os.write(2, b"python still writes, its clock says %d\\n" % time.monotonic_ns())
"""


def test_a_library_that_defines_libc_functions_is_loaded_by_its_own_sample_only(folder: Path) -> None:
    library = build(folder, {"csrc/hostile.cpp": HOSTILE})
    assert library is not None
    maps = Path("/proc/self/maps").read_text()
    assert str(library) not in maps  # building loaded nothing into the judge
    runtime = python_runtime()
    done = run(
        [*runtime.argv, "-c", LOADED_INSIDE],
        level=best_level(),
        mounts=[*runtime.mounts, Mount(folder / "model", "/tree/model")],
        limits=Limits(),
        env=runtime.env,
        slot=1,
        timeout_s=30,
        output_limit_bytes=1 << 16,
    )
    assert done.returncode == 0, done.stderr_tail
    assert "constructor ran" in done.stderr_tail and "python still writes" in done.stderr_tail


def test_the_program_inside_says_what_is_wrong_without_a_sandbox_too(folder: Path) -> None:
    """The same program by hand, as a contributor would run it."""
    program = Path(build_module.__file__).with_name("inside.py")
    root = tree(folder, {"csrc/add.cpp": ADD, "odd.py": "x = '\0'"}) / "model"
    done = subprocess.run([sys.executable, str(program), str(root)], capture_output=True, text=True)
    assert done.returncode == 1 and "odd.py" in done.stderr and done.stdout == ""
    (root / "odd.py").unlink()
    built = subprocess.run([sys.executable, str(program), str(root), "g++", *FLAGS], capture_output=True)
    assert built.returncode == 0 and built.stdout.startswith(b"\x7fELF")


@pytest.mark.parametrize("folder", ["_native.so", "_native.candidate"])
def test_a_folder_where_the_library_goes_is_the_tree_s_fault(folder: str, tmp_path: Path) -> None:
    (tmp_path / "model" / folder).mkdir(parents=True)
    with pytest.raises(SideFailed, match="may not have a folder") as refusal:
        place(tmp_path, b"library", "candidate")
    assert (refusal.value.kind, refusal.value.side) == ("build_failed", "candidate")
