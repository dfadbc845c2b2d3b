"""What a device reaches in one large matrix product: the peak that utilisation is measured against.

Measured at the start of each run and not looked up, so that it holds for this machine, its clock and this number of
threads. Knows nothing of models.
"""

from __future__ import annotations

import time

import torch

CPU_SIDE = 1024
CUDA_SIDE = 8192
MEASURE_S = 0.4


def measure_gemm_peak(device: torch.device, dtype: torch.dtype, *, seconds: float = MEASURE_S) -> float:
    """FLOP/s of the fastest of the square products that fit into `seconds`; at least three are timed."""
    side = CUDA_SIDE if device.type == "cuda" else CPU_SIDE
    generator = torch.Generator(device).manual_seed(
        0
    )  # of its own: a resumed run's random numbers go on untouched
    left, right = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = left @ right  # warms up: first calls load kernels
    best_ns, begun, calls = float("inf"), time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - begun < seconds:
        _wait_for(device)
        start = time.perf_counter_ns()
        torch.mm(left, right, out=out)
        _wait_for(device)
        best_ns = min(best_ns, time.perf_counter_ns() - start)
        calls += 1
    return 2 * side**3 / (best_ns / 1e9)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
