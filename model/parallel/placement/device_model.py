"""Measured rates of a device as a JSON document, and times computed from them. Does not import torch.

Each operation has samples of (size, rate): the rate is FLOP/s, or tokens/s for the data path, and the size is the one
that it depends on most: rows of a matrix product, tokens of a context, rows per expert. Between samples the rate is
interpolated on logarithmic axes, beyond them it is constant. `measure_device.py` makes the documents.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

FORMAT = "gainshare.device/1"
Operation = Literal["data", "attention", "dense", "experts"]
Samples = tuple[tuple[float, float], ...]


class DeviceModelError(ValueError):
    """An invalid device model; the message says what is wrong with it."""


@dataclass(frozen=True)
class DeviceModel:
    """Measured rates of one device.

    `link_gb_s` and `link_latency_us` are of copies between the host's memory and the device's, and infinite and 0 for
    the host itself. `memory_gb_s` is the bandwidth of streaming reads of weights.
    """

    name: str  # the machine's name of the device
    kind: str  # cpu, cuda, npu ...
    measured_at: str  # ISO date, UTC
    dtype: str
    memory_bytes: int
    memory_gb_s: float
    link_gb_s: float
    link_latency_us: float
    rates: dict[Operation, Samples]  # an operation that the device cannot do is missing

    def __post_init__(self) -> None:
        for operation, samples in self.rates.items():
            if operation not in get_args(Operation):
                raise DeviceModelError(f"{self.name} has an unknown operation {operation!r}")
            sizes = [size for size, _ in samples]
            if not samples or sizes != sorted(set(sizes)) or min(min(pair) for pair in samples) <= 0:
                raise DeviceModelError(
                    f"{self.name}: {operation} needs samples of ascending sizes and rates above 0"
                )
        for field in ("memory_bytes", "memory_gb_s", "link_gb_s"):
            if not getattr(self, field) > 0:
                raise DeviceModelError(f"{self.name}: {field} must be above 0")

    @property
    def is_host(self) -> bool:
        return self.kind == "cpu"

    def can(self, operation: Operation) -> bool:
        return operation in self.rates

    def rate(self, operation: Operation, size: float) -> float:
        """Rate at a size in FLOP/s (tokens/s for data). Raises DeviceModelError if it was not measured."""
        if operation not in self.rates:
            raise DeviceModelError(f"{self.name} was not measured on {operation}")
        samples = self.rates[operation]
        right = bisect_left([at for at, _ in samples], size)
        if right == 0:
            return samples[0][1]
        if right == len(samples):
            return samples[-1][1]
        (low, low_rate), (high, high_rate) = samples[right - 1], samples[right]
        share = math.log(size / low) / math.log(high / low)
        return math.exp(math.log(low_rate) * (1 - share) + math.log(high_rate) * share)

    def seconds(self, operation: Operation, work: float, size: float) -> float:
        return work / self.rate(operation, size) if work else 0.0

    def copy_seconds(self, n_bytes: float) -> float:
        """Seconds of a copy from or to the host's memory."""
        return (
            0.0
            if self.is_host or not n_bytes
            else n_bytes / (self.link_gb_s * 1e9) + self.link_latency_us * 1e-6
        )


def to_json(model: DeviceModel) -> str:
    return json.dumps({"format": FORMAT, **asdict(model)}, indent=2) + "\n"


def read_device_model(path: Path) -> DeviceModel:
    """Read a device model. Raises DeviceModelError for an invalid file."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise DeviceModelError(f"{path} is not of format {FORMAT}")
        rates = {
            operation: tuple((float(size), float(rate)) for size, rate in samples)
            for operation, samples in document.pop("rates").items()
        }
        return DeviceModel(rates=rates, **document)
    except DeviceModelError as error:
        raise DeviceModelError(f"{path}: {error}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceModelError(
            f"{path} is not a device model ({error}): make one with `python -m model.parallel.placement measure`"
        ) from error
