"""The kernels' own tests, run by the ways that this machine's build does not take.

On a processor with products of bf16 pairs the other way is forced. On one without AVX-512 both of AVX-512's are compiled
for emulated instructions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model import kernel_ways, native
from tests.needs_torch import needs_bf16_pairs

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
EMULATED = Path(__file__).with_name("emulated_avx512.h")
KERNELS_TESTS = [
    "tests/model/layers/test_attention_fused.py",
    "tests/model/layers/test_experts_fused.py",
    "tests/model/layers/test_linear_fused.py",
    "tests/model/layers/test_norm_fused.py",
    "tests/model/layers/test_router_fused.py",
    "tests/model/serving/executors/test_native_executor.py",
    "tests/model/serving/executors/test_packed.py",
]
RUN = (
    "import sys; from pathlib import Path; from model import native; native.use(Path(sys.argv[1])); "
    "import pytest; sys.exit(pytest.main(sys.argv[2:]))"
)
INSTRUCTIONS = " ".join(kernel_ways.processor())


def assert_kernels_are_right(library: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-m", "not long", *KERNELS_TESTS]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(library), *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("way", ["fma", "dot"])
@needs_bf16_pairs
def test_a_forced_way_is_right(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel_ways.FORCED, way)
    assert_kernels_are_right(native.build())


@pytest.mark.parametrize("by_fma", [0, 1])
@pytest.mark.skipif("avx512f" in INSTRUCTIONS, reason="expected: NOTHING TO EMULATE HERE: AVX-512 is there")
@pytest.mark.skipif("avx2" not in INSTRUCTIONS, reason="expected: NO AVX2 HERE")
@pytest.mark.skipif(
    not Path("/usr/include/simde/x86/avx512.h").is_file(),
    reason="expected: NO SIMDE HERE: apt-get install libsimde-dev",
)
def test_the_kernels_of_avx512_are_right(by_fma: int, tmp_path: Path) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(native.SOURCES, sources)
    # A register of this name, which keeps a vector where it is, does not exist here.
    lanes = sources / "lanes.h"
    hint = 'asm("" : "+v"(values));'
    assert lanes.read_text().count(hint) == 1
    lanes.write_text(lanes.read_text().replace(hint, ""))
    flags = [flag for flag in native.FLAGS if not flag.startswith(("-O", "-march"))]
    command = ["g++", "-O1", "-mavx2", "-mfma", "-mf16c", *flags, f"-DBF16_BY_FMA={by_fma}"]
    library = tmp_path / "emulated.so"
    subprocess.run(
        [*command, "-include", EMULATED, "-I", sources, *sorted(sources.rglob("*.cpp")), "-o", library],
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert_kernels_are_right(library)
