"""Current and peak memory of a training process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on the device that trains: resident ones of the process on a CPU, allocated ones on a GPU."""

    now_bytes: int
    peak_bytes: int


def memory_use(device: torch.device) -> MemoryUse | None:
    """Memory of the training process; None where it is unknown: on a CPU it needs Linux's /proc."""
    if device.type == "cuda":
        return MemoryUse(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return MemoryUse(_kib(lines["VmRSS"]), _kib(lines["VmHWM"]))
    except (OSError, KeyError):
        return None


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024
