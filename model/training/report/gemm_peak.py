"""Measure a device's peak speed of matrix products, which utilisation (MFU) is measured against.

Measured at the start of each run and not looked up, so that it holds for this machine, its clock and this number of
threads. Other processes slow products down, never up: those that last longer than a turn on a core, and those whose
threads wait for one another. So on a CPU the fastest of many that take one thread about a millisecond counts, times the
threads, in rounds with pauses between them; torch's products and, where they are used, the stack's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.layers import linear_fused

CPU_SIDE = 384
CUDA_SIDE = 8192
MEASURE_S = 0.8
ROUNDS = 10


def measure_gemm_peak(
    device: torch.device, dtype: torch.dtype, *, seconds: float = MEASURE_S, side: int | None = None
) -> float:
    """Return the FLOP/s of the fastest square product among those run in about `seconds`, half of which are pauses.

    On a CPU as many as all of torch's threads reach if none waits for another. `side` of the matrices is CPU_SIDE or
    CUDA_SIDE unless given.
    """
    if device.type == "cuda":
        return _one_peak(device, dtype, side or CUDA_SIDE, seconds)
    with one_thread() as threads:
        return threads * _one_peak(device, dtype, side or CPU_SIDE, seconds)


def _one_peak(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    generator = torch.Generator(device).manual_seed(
        0
    )  # its own generator: a resumed run's random numbers stay untouched
    left, right = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    ways = _ways(left, right, left @ right)  # which warms up: first calls load kernels
    pause_s = seconds / ROUNDS / 2
    best_ns = min(_call_ns(way, device) for way in ways)
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        while time.perf_counter() - begun < pause_s:
            best_ns = min(best_ns, *(_call_ns(way, device) for way in ways))
        time.sleep(pause_s)
    return 2 * side**3 / (best_ns / 1e9)


def _ways(left: Tensor, right: Tensor, out: Tensor) -> list[Callable[[], Tensor]]:
    """Functions that multiply the two matrices into `out`: torch's and the stack's own."""
    ways: list[Callable[[], Tensor]] = [lambda: torch.mm(left, right, out=out)]
    if left.device.type == "cpu" and linear_fused.is_fast(left.dtype):
        ways.append(lambda: linear_fused.project(left, right, out))
    return ways


@contextmanager
def one_thread() -> Iterator[int]:
    """Context with one torch thread; yields the number of threads before, which is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _call_ns(way: Callable[[], Tensor], device: torch.device) -> int:
    _wait_for(device)
    start = time.perf_counter_ns()
    way()
    _wait_for(device)
    return time.perf_counter_ns() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
