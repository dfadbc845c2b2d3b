"""Peak rates of this core now: bytes read a second from a working set, operations a second in large matrix products."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.drivers.channel import serve
from model.training.report.gemm_peak import measure_gemm_peak

MEASURE_S = 0.5
LARGE_SIDE = 1024  # of products that rooflines are made of
READ_SOURCE = """
#include <stddef.h>
#include <stdint.h>
uint64_t read_all(const uint64_t *p, size_t n) {
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t quarter = n / 4;
    for (size_t i = 0; i < quarter; i++) {
        s0 += p[i]; s1 += p[quarter + i]; s2 += p[2 * quarter + i]; s3 += p[3 * quarter + i];
    }
    return s0 + s1 + s2 + s3;
}
uint64_t read_in_order(const uint64_t *p, size_t n) {
    uint64_t s = 0;
    for (size_t i = 0; i < n; i++) s += p[i];
    return s;
}
"""


def bandwidth(n_bytes: int) -> dict[str, Any]:
    """The best of several ways to read an array of `n_bytes` over and over: in order, four streams, and torch's product."""
    torch.set_num_threads(1)
    words = torch.arange(n_bytes // 8, dtype=torch.int64)
    floats = torch.ones(n_bytes // 4 // 1024, 1024)
    vector = torch.ones(1024)
    ways: dict[str, Any] = {"matrix times vector": lambda: torch.mv(floats, vector)}
    library = _library()
    for name in () if library is None else ("read_in_order", "read_all"):
        function = getattr(library, name)
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_uint64
        ways[name] = lambda function=function: function(words.data_ptr(), words.numel())
    found = {name: n_bytes / _best_s(way) for name, way in ways.items()}
    best = max(found, key=lambda name: found[name])
    return {"bytes_per_s": found[best], "way": best}


def gemm(dtype: str) -> dict[str, Any]:
    """Operations a second of square products; `int8` counts integer operations.

    The better of `dtype` and float32, with its name: without instructions for a narrow type, products are made in the wide.
    """
    torch.set_num_threads(1)
    found = {name: _products_per_s(name) for name in {dtype, "float32"}}
    best = max(found, key=lambda name: found[name])
    return {"flops": found[best], "dtype": best}


def _products_per_s(dtype: str) -> float:
    if dtype != "int8":
        return measure_gemm_peak(
            torch.device("cpu"), getattr(torch, dtype), seconds=MEASURE_S, side=LARGE_SIDE
        )
    left = torch.randint(-127, 128, (LARGE_SIDE, LARGE_SIDE), dtype=torch.int8)
    right = torch.randint(-127, 128, (LARGE_SIDE, LARGE_SIDE), dtype=torch.int8)
    return 2 * LARGE_SIDE**3 / _best_s(lambda: torch._int_mm(left, right))


def _best_s(work: Any) -> float:
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < MEASURE_S:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _library() -> ctypes.CDLL | None:
    """The loops compiled for this processor; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "read.c"), Path(folder, "read.so")
        source.write_text(READ_SOURCE)
        command = [compiler, "-O3", "-march=native", "-funroll-loops", "-shared", "-fPIC", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True, timeout=60)
        return ctypes.CDLL(str(target))


if __name__ == "__main__":
    serve({"bandwidth": bandwidth, "gemm": gemm})
