"""Heterogeneous placement: each part's throughput on the device that it is placed on, over the best single device.

Rates of this machine's devices are measured here; models of other devices may be given, as `model.parallel.placement measure`
wrote them there. What a placement gains is always simulated from such measured rates, and the rows say so. With one device
there is nothing to place: then nothing is claimed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.claim import Claim, Measured
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.sparse_moe import sparse_model
from benchmarks.report import MeasuringFailed, Row
from model.config import ModelConfig
from model.parallel.placement.device_model import DeviceModel, DeviceModelError, Operation, read_device_model
from model.parallel.placement.parts import PlacementError, best_single, place

# What DESIGN.md promises of each group of parts.
TARGETS: dict[str, tuple[float, tuple[Operation, ...]]] = {
    "GEMM": (3.2, ("dense", "experts")),
    "attention": (2.1, ("attention",)),
    "data path": (1.8, ("data",)),
}
TOKENS = 512
DTYPE = "float32"
SECONDS: dict[Scale, float] = {"quick": 0.1, "full": 0.5}


def work(settings: dict[str, Any], made: Path) -> Result:
    """Measured models of the processor and of every accelerator that torch finds here."""
    import torch

    from model.parallel.placement.measure_device import measure_device

    torch.set_num_threads(1)
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        names += [f"{kind.type}:{index}" for index in range(torch.accelerator.device_count())]
    return {
        "devices": [
            dataclasses.asdict(measure_device(name, DTYPE, seconds=settings["seconds"])) for name in names
        ]
    }


def measure(bench: Bench, scale: Scale) -> Measured:
    result = bench.one(Job("placement", {"seconds": SECONDS[scale]}, is_alone=True), "placement")
    here = [_device(values) for values in result["devices"]]
    try:
        elsewhere = [read_device_model(file) for file in bench.device_models]
    except DeviceModelError as error:
        raise MeasuringFailed(str(error)) from error
    return Measured(decide(sparse_model(), here, elsewhere, scale))


def decide(
    config: ModelConfig, here: Sequence[DeviceModel], elsewhere: Sequence[DeviceModel], scale: Scale
) -> list[Row]:
    devices = [*here, *elsewhere]
    if len(devices) < 2:
        how = (
            f"not measured here: no second device in addition to {devices[0].name}; give a model that was measured on one "
            "(`python -m model.parallel.placement measure`) with --device-model"
        )
        return [_row(part, None, how) for part in TARGETS]
    try:
        placed, single = place(config, devices, TOKENS), best_single(config, devices, TOKENS)
    except PlacementError as error:
        raise MeasuringFailed(f"these devices cannot be compared: {error}") from error
    inputs = ", ".join(
        f"{device.name} ({'here' if device in here else 'elsewhere'}, {device.measured_at})"
        for device in devices
    )
    rows = []
    for part, (_, operations) in TARGETS.items():
        before = sum(single.seconds[operation] for operation in operations)
        after = sum(placed.seconds[operation] for operation in operations)
        on = ", ".join(sorted({placed.devices[operation] for operation in operations}))
        how = (
            f"simulated from measured rates of {inputs}; placed on {on}, best single device "
            f"{single.devices['dense']}; whole step {single.step_s / placed.step_s:.2f}x; {TOKENS} tokens of "
            f"{config.name}, training; {SAYS[scale]}"
        )
        rows.append(_row(part, before / after if after else None, how))
    return rows


def _row(part: str, gain: float | None, how: str) -> Row:
    target = TARGETS[part][0]
    return Row(
        f"heterogeneous placement: {part} over the best single device",
        None if gain is None else round(gain, 2),
        "x",
        f"{target}x",
        None if gain is None else gain >= target,
        how,
    )


def _device(values: dict[str, Any]) -> DeviceModel:
    rates = {name: tuple((size, rate) for size, rate in samples) for name, samples in values["rates"].items()}
    return DeviceModel(**{**values, "rates": rates})


CLAIM = Claim(
    "placement",
    "Parts placed on the device that suits them run 3.2x (GEMM), 2.1x (attention), 1.8x (data path) faster",
    measure,
)
