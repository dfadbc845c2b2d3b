"""The least time in which a core can do a number of floating-point operations. Generous: only the impossible is below.

Two 512-bit fused multiply-adds a cycle is the most that single precision gets on any core known here; the clock rate is
doubled, since turbo goes above what the kernel reports.
"""

from functools import cache
from pathlib import Path

from benchmarks.sandbox.devices import CPU

ACCELERATOR_FLOPS = 20_000_000_000_000_000  # the largest in 2026 reach 10-20 PFLOP/s, in four bits
FLOPS_PER_CYCLE = 64
TURBO = 2
FALLBACK_HZ = 4_000_000_000  # where the kernel does not tell (aarch64)


@cache
def peak_flops(cpuinfo: str | None = None) -> int:
    """Single-precision operations per second that one core cannot exceed."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    rates = [float(line.split(":")[1]) for line in text.splitlines() if line.startswith("cpu MHz")]
    hertz = int(max(rates) * 1_000_000) if rates else FALLBACK_HZ
    return FLOPS_PER_CYCLE * TURBO * hertz


def floor_ns(flops: int, device: str) -> int:
    """Nanoseconds below which no honest call can be, on one core or on one accelerator."""
    return flops * 1_000_000_000 // (peak_flops() if device == CPU else ACCELERATOR_FLOPS)
