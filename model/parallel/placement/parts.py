"""Place the parts of a step on devices: data path, attention, dense products, hot and cold experts.

Takes measured device models (`device_model.py`) and the cost of each part (`work.py`), and tries every assignment; with
one device there is one. A device must have memory for its parts. Within a layer parts run one after the other and the
stream is copied between devices; the data path overlaps with the step and costs only the time that exceeds it, unless
it shares its device. Hot experts on an accelerator and cold ones on the host run at the same time. The result is a
simulation, and is labelled so. Does not import torch, except to measure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.config import ConfigError, ModelConfig
from model.parallel.placement.device_model import (
    DeviceModel,
    DeviceModelError,
    Operation,
    read_device_model,
    to_json,
)
from model.parallel.placement.work import PRECISION, Work, work_of
from model.presets import PRESETS, named_config

PARTS: tuple[Operation, ...] = ("data", "attention", "dense", "experts")


class PlacementError(ValueError):
    """A model that cannot be placed on the devices; the message names the part."""


@dataclass(frozen=True)
class ExpertSplit:
    """The `n_hot` most loaded experts of each layer are on the accelerator, the others on the host."""

    n_hot: int
    hot_share: float  # of all (token, expert) pairs
    hot_s: float
    cold_s: float


@dataclass(frozen=True)
class Placement:
    """A placement: a device for each part, the seconds of each part there, and those of the whole step."""

    devices: dict[Operation, str]
    seconds: dict[Operation, float]
    copies_s: float
    step_s: float
    experts: ExpertSplit | None


def place(
    config: ModelConfig,
    devices: Sequence[DeviceModel],
    tokens: int,
    *,
    load: Sequence[float] | None = None,
    is_training: bool = True,
    cache_bytes: float = 0.0,
) -> Placement:
    """The fastest placement; `load`: the experts' shares of pairs, None for even ones; `cache_bytes` as in `work_of`.

    Raises PlacementError where a part fits no device or was measured on none, the devices were measured in different
    dtypes, or there is no token.
    """
    work = _work_on(config, devices, tokens, is_training, cache_bytes)
    found = [
        placement
        for chosen in itertools.product(devices, repeat=len(PARTS))
        if (
            placement := _simulate(
                config, dict(zip(PARTS, chosen, strict=True)), devices, work, load, is_training
            )
        )
    ]
    if not found:
        raise PlacementError(
            f"{config.name} does not fit on {', '.join(d.name for d in devices)} in any placement: {_needs(work)}"
        )
    return min(found, key=lambda placement: placement.step_s)


def best_single(
    config: ModelConfig, devices: Sequence[DeviceModel], tokens: int, *, is_training: bool = True
) -> Placement:
    """The fastest placement of all parts on one device, the baseline of `gains`.

    If that device cannot compute the data path the host does it, as with any accelerator.
    """
    work = _work_on(config, devices, tokens, is_training)
    host = next((device for device in devices if device.is_host and device.can("data")), None)
    found = []
    for device in devices:
        chosen: dict[Operation, DeviceModel] = dict.fromkeys(PARTS, device)
        if not device.can("data") and host is not None:
            chosen["data"] = host
        placement = _simulate(config, chosen, [device], work, None, is_training)
        if placement is not None:
            found.append(placement)
    if not found:
        raise PlacementError(
            f"{config.name} fits on none of {', '.join(device.name for device in devices)}: {_needs(work)}"
        )
    return min(found, key=lambda placement: placement.step_s)


def gains(placed: Placement, single: Placement) -> dict[str, float]:
    """Throughput of each part and of the whole step, relative to the single device."""
    parts: dict[str, float] = {
        part: single.seconds[part] / placed.seconds[part] for part in PARTS if placed.seconds[part] > 0
    }
    return {**parts, "step": single.step_s / placed.step_s}


def split_experts(
    work: Work,
    n_experts: int,
    load: Sequence[float],
    accelerator: DeviceModel,
    host: DeviceModel,
    free_bytes: float,
    host_free_bytes: float = math.inf,
) -> ExpertSplit | None:
    """Choose how many of the hottest experts are on the accelerator, for the shortest time of both sides together.

    `load` are the experts' shares of the pairs; `free_bytes` and `host_free_bytes` are what each side has for experts.
    Rates are read at each side's own rows per expert. None if the experts do not fit.
    """
    ordered = sorted(load, reverse=True)
    splits = [_split(work, ordered, n_hot, accelerator, host) for n_hot in range(n_experts + 1)]
    fitting = [
        split
        for split in splits
        if _held(work, split.n_hot / n_experts, split.hot_share) <= free_bytes
        and _held(work, 1 - split.n_hot / n_experts, 1 - split.hot_share) <= host_free_bytes
    ]
    return min(fitting, key=lambda split: max(split.hot_s, split.cold_s), default=None)


def _held(work: Work, experts_share: float, rows_share: float) -> float:
    """Bytes of these shares of the experts' weights and states, and of their rows."""
    return (work.weight_bytes + work.state_bytes) * experts_share + work.kept_bytes * rows_share


def _split(
    work: Work, ordered: Sequence[float], n_hot: int, accelerator: DeviceModel, host: DeviceModel
) -> ExpertSplit:
    n_experts = len(ordered)
    hot_share = sum(ordered[:n_hot]) / sum(ordered)

    def seconds(device: DeviceModel, share: float, count: int) -> float:
        if not count or not share:
            return 0.0
        rows = max(work.size * n_experts * share / count, 1.0)
        reading = work.weight_bytes * count / n_experts / (device.memory_gb_s * 1e9)
        return max(device.seconds("experts", work.flops * share, rows), reading)

    return ExpertSplit(
        n_hot,
        hot_share,
        seconds(accelerator, hot_share, n_hot),
        seconds(host, 1 - hot_share, n_experts - n_hot),
    )


def _simulate(
    config: ModelConfig,
    chosen: dict[Operation, DeviceModel],
    devices: Sequence[DeviceModel],
    work: dict[Operation, Work],
    load: Sequence[float] | None,
    is_training: bool,
) -> Placement | None:
    """Simulate an assignment; None if a part cannot run on its device or does not fit there."""
    if not all(
        device.can(needed) for part, device in chosen.items() for needed in work[part].operations(part)
    ):
        return None
    seconds = {part: work[part].seconds(part, device) for part, device in chosen.items()}
    split = None
    if config.moe is not None and work["experts"].flops:
        split = _place_experts(config, chosen, devices, work, load)
        if split is None:
            return None
        seconds["experts"] = max(split.hot_s, split.cold_s)
    if any(_free_bytes(device, chosen, work) < 0 for device in devices):
        return None
    copies = _copies_s(config, chosen, work["data"].size, split, is_training)
    compute = seconds["attention"] + seconds["dense"] + seconds["experts"] + copies
    shares_device = any(chosen["data"] is chosen[part] for part in PARTS[1:] if work[part].flops)
    step = compute + seconds["data"] if shares_device else max(compute, seconds["data"])
    return Placement({part: device.name for part, device in chosen.items()}, seconds, copies, step, split)


def _place_experts(
    config: ModelConfig,
    chosen: dict[Operation, DeviceModel],
    devices: Sequence[DeviceModel],
    work: dict[Operation, Work],
    load: Sequence[float] | None,
) -> ExpertSplit | None:
    assert config.moe is not None
    n_experts = config.moe.n_experts
    shares = [1.0 / n_experts] * n_experts if load is None else list(load)
    if len(shares) != n_experts or min(shares) < 0 or sum(shares) <= 0:
        raise PlacementError(f"load needs {n_experts} shares that are not negative and not all zero")
    device = chosen["experts"]
    free = _free_bytes(device, chosen, work)
    host = next((other for other in devices if other.is_host and other.can("experts")), None)
    if device.is_host or host is None:
        if work["experts"].held_bytes > free:
            return None
        return _split(work["experts"], sorted(shares, reverse=True), n_experts, device, device)
    host_free = _free_bytes(host, chosen, work)
    return split_experts(work["experts"], n_experts, shares, device, host, free, host_free)


def _free_bytes(
    device: DeviceModel, chosen: dict[Operation, DeviceModel], work: dict[Operation, Work]
) -> float:
    """Bytes left for experts after the other parts; below 0 if these do not fit."""
    taken = sum(
        work[part].held_bytes for part, place in chosen.items() if place is device and part != "experts"
    )
    return device.memory_bytes - taken


def _copies_s(
    config: ModelConfig,
    chosen: dict[Operation, DeviceModel],
    tokens: float,
    split: ExpertSplit | None,
    is_training: bool,
) -> float:
    """Seconds of copies of the stream between the parts of each layer, and of cold experts' rows."""
    directions = 2 if is_training else 1  # gradients are copied back
    stream = tokens * config.d_model * PRECISION[chosen["attention"].dtype].block_bytes
    seconds = 0.0
    ffn = chosen["experts"] if config.n_moe_layers else chosen["dense"]
    for here, there in ((chosen["attention"], ffn), (ffn, chosen["attention"])):
        if here is not there:
            seconds += config.n_layers * directions * (here.copy_seconds(stream) + there.copy_seconds(stream))
    if config.n_moe_layers and chosen["dense"] is not ffn:
        dense = chosen["dense"]
        seconds += (
            2 * config.n_moe_layers * directions * (dense.copy_seconds(stream) + ffn.copy_seconds(stream))
        )
    if split is not None and config.moe is not None and not ffn.is_host and split.hot_share < 1:
        rows = stream * min(1.0, config.moe.top_k * (1 - split.hot_share))
        seconds += 2 * config.n_moe_layers * directions * ffn.copy_seconds(rows)
    return seconds


def _work_on(
    config: ModelConfig,
    devices: Sequence[DeviceModel],
    tokens: int,
    is_training: bool,
    cache_bytes: float = 0.0,
) -> dict[Operation, Work]:
    """`work_of`. Raises PlacementError if the devices cannot be compared or an operation was measured on none of them."""
    _require_comparable(devices)
    if tokens < 1:
        raise PlacementError(f"a step needs at least 1 token, not {tokens}")
    dtype = devices[0].dtype
    work = work_of(config, tokens, dtype=dtype, is_training=is_training, cache_bytes=cache_bytes)
    for part in PARTS:
        needed = work[part].operations(part)
        if not any(all(device.can(operation) for operation in needed) for device in devices):
            raise PlacementError(
                f"none of {', '.join(device.name for device in devices)} was measured on {' and '.join(needed)}: "
                "give the host's model too (`python -m model.parallel.placement measure --device cpu`)"
            )
    return work


def _needs(work: dict[Operation, Work]) -> str:
    parts = ", ".join(f"{part} {work[part].held_bytes / 1e9:.3g}" for part in PARTS if work[part].held_bytes)
    return f"it needs, in GB: {parts}"


def _require_comparable(devices: Sequence[DeviceModel]) -> None:
    if not devices:
        raise PlacementError("no device model was given")
    if len({device.dtype for device in devices}) > 1:
        raise PlacementError("device models were measured in different dtypes: measure them in the same one")
    if len({device.name for device in devices}) < len(devices):
        raise PlacementError("two device models have the same name: give each a different one")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "measure":
            return _measure(options)
        return _print_simulation(options)
    except (PlacementError, DeviceModelError, ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _measure(options: argparse.Namespace) -> int:
    from model.parallel.placement.measure_device import measure_device

    text = to_json(measure_device(options.device, options.dtype, seconds=options.seconds))
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _print_simulation(options: argparse.Namespace) -> int:
    devices = [read_device_model(Path(file)) for file in options.device_models]
    config = named_config(options.config)
    placed = place(config, devices, options.tokens, is_training=not options.inference)
    single = best_single(config, devices, options.tokens, is_training=not options.inference)
    document = {
        "simulated": True,
        "inputs": [
            {"name": device.name, "kind": device.kind, "measured_at": device.measured_at}
            for device in devices
        ],
        "placed": asdict(placed),
        "single": asdict(single),
        "gains": gains(placed, single),
    }
    if options.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return 0
    sys.stdout.write(f"simulated from measured device models: {', '.join(d.name for d in devices)}\n")
    for part in PARTS:
        sys.stdout.write(
            f"{part:10} on {placed.devices[part]:24} {placed.seconds[part] * 1e3:10.3f} ms "
            f"({single.seconds[part] * 1e3:.3f} ms on {single.devices[part]})\n"
        )
    sys.stdout.write(
        f"step {placed.step_s * 1e3:.3f} ms against {single.step_s * 1e3:.3f} ms on one device\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.parallel.placement", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure this machine's device and write its model")
    measure.add_argument(
        "--device", default="cpu", help="cpu, or the accelerator's name as torch has it: cuda, npu"
    )
    measure.add_argument("--dtype", choices=tuple(PRECISION), default="float32")
    measure.add_argument("--seconds", type=float, default=0.2, help="seconds per sample (default: 0.2)")
    measure.add_argument("--out", help="file to write (default: print it)")
    simulate = commands.add_parser("simulate", help="place a model on measured devices")
    simulate.add_argument("device_models", nargs="+", help="JSON files that `measure` wrote")
    simulate.add_argument(
        "--config", required=True, help=f"{', '.join(PRESETS)}, or a JSON file of a model configuration"
    )
    simulate.add_argument("--tokens", type=int, default=512)
    simulate.add_argument("--inference", action="store_true")
    simulate.add_argument("--json", action="store_true")
    return parser
