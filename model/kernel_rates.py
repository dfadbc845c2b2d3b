"""Measure what `model/kernel_ways.py` chooses by: `python -m model.kernel_rates LIBRARY`, about a second, as JSON.

LIBRARY is a build of `model/csrc/rates.cpp` and `linear_fused.cpp`. A process of its own, so that measuring changes
nothing in the one that builds: neither its number of threads nor what it has imported. One thread; of several calls
the fastest counts, by the thread's own processor time, since other work only slows them.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from model import native
from model.kernel_ways import Rates
from model.layers import linear_fused

TURNS = 30  # of about a millisecond each
ROWS, INPUTS, OUTPUTS = 1024, 512, 1024  # of the linear map
MEASURE_S = 0.1  # each product

Products = tuple[Callable[[], object], ...]


def measure(library: Path) -> Rates:
    """The rates of the core that this thread runs on. The process uses `library` for its kernels from now on."""
    native.use(library)
    torch.set_num_threads(1)
    fp32_own, fp32_torch = _linear_maps(torch.float32)
    bf16_own, bf16_torch = _linear_maps(torch.bfloat16)
    return Rates(
        fma=_in_registers("rates_fma"),
        dot=_in_registers("rates_dot"),
        fp32_own=fp32_own,
        fp32_torch=fp32_torch,
        bf16_own=bf16_own,
        bf16_torch=bf16_torch,
    )


def _in_registers(name: str) -> float:
    kernel = getattr(native.library(), name)
    kernel.argtypes, kernel.restype = [ctypes.c_int64], ctypes.c_double
    return float(kernel(TURNS))


def _linear_maps(dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of the answer and both gradients together: by our kernels, and by torch's."""
    generator = torch.Generator().manual_seed(0)
    x_MK, weight_NK, grad_MN = (
        torch.randn(size, generator=generator).to(dtype)
        for size in ((ROWS, INPUTS), (OUTPUTS, INPUTS), (ROWS, OUTPUTS))
    )
    own: Products = (
        lambda: linear_fused.project(x_MK, weight_NK),
        lambda: linear_fused.grad_input(grad_MN, weight_NK),
        lambda: linear_fused.grad_weight(grad_MN, x_MK),
    )
    torchs: Products = (
        lambda: x_MK @ weight_NK.mT,
        lambda: grad_MN @ weight_NK,
        lambda: grad_MN.mT @ x_MK,
    )
    return _rate(own), _rate(torchs)


def _rate(products: Products) -> float:
    operations = 2 * ROWS * INPUTS * OUTPUTS * len(products)
    return operations / (sum(map(_fastest_ns, products)) / 1e9)


def _fastest_ns(multiply: Callable[[], object]) -> int:
    best_ns, until = sys.maxsize, time.perf_counter() + MEASURE_S
    while best_ns == sys.maxsize or time.perf_counter() < until:
        begun = time.thread_time_ns()
        multiply()
        best_ns = min(best_ns, time.thread_time_ns() - begun)
    return best_ns


if __name__ == "__main__":
    json.dump(asdict(measure(Path(sys.argv[1]))), sys.stdout)
