"""Hardware options of a node: one device, several ranks, or an accelerator and the host; and loading onto them.

--device cuda                               everything on the accelerator, with CUDA graphs (`accelerated.py`)
--tensor-parallel N --expert-parallel M     ranks on this machine (`distributed/executor.py`)
--hot-experts N [--accelerator cuda]        N experts of each layer on the accelerator (`offload/executor.py`)
--device-models FILE FILE                   the same, with N and the rest from measured device models
--weights int8                              weights in this form, for the compiled kernels on the host
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from model.config import ModelConfig
from model.parallel.placement.device_model import read_device_model
from model.serving.distributed import executor as distributed
from model.serving.distributed.shard import Degrees, check_degrees
from model.serving.executors.accelerated import accelerated_executor
from model.serving.executors.choice import BLOCK_TOKENS, WEIGHTS, blocks_within
from model.serving.executors.kept_weights import packed_home
from model.serving.executors.packed import Weights
from model.serving.executors.plain_torch import TorchExecutor, bytes_per_block
from model.serving.executors.streamed import with_executor
from model.serving.metering.generation import EngineLimits
from model.serving.node.loading import check_files_fit
from model.serving.node.options import whole
from model.serving.node.served import ServedModel, load_served, open_served
from model.serving.offload.executor import OffloadExecutor
from model.serving.offload.layout import HOST, Layout, check_hot

AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda")
BLOCKS: dict[Weights, torch.dtype] = {form: dtype for dtype, form in WEIGHTS.items()}  # of plain torch
PLANNED_TOKENS = 16  # of the steps that a layout is planned for: decoding


@dataclass(frozen=True)
class Hardware:
    """The hardware options. The default is the engine's own choice on one device."""

    degrees: Degrees = dataclasses.field(default_factory=Degrees)
    device: torch.device = HOST
    n_hot: int | None = None
    accelerator: str = "cuda"
    device_models: tuple[Path, ...] = ()
    weights: Weights | None = None  # None: as the model's file has them
    keeps_packed: bool = False

    @property
    def is_offloaded(self) -> bool:
        return self.n_hot is not None or bool(self.device_models)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options above."""
    group = parser.add_argument_group("hardware", "the devices that compute; by default one")
    group.add_argument(
        "--device",
        choices=DEVICES,
        default=AUTO,
        help="device that computes everything (default: auto: cuda if torch sees one and no other hardware option is given)",
    )
    group.add_argument(
        "--tensor-parallel",
        type=whole(1),
        default=1,
        metavar="N",
        help="split heads and widths over N processes",
    )
    group.add_argument(
        "--expert-parallel",
        type=whole(1),
        default=1,
        metavar="N",
        help="spread experts over N of the same processes",
    )
    group.add_argument(
        "--hot-experts",
        type=whole(0),
        metavar="N",
        help="keep N experts of each layer on the accelerator, the others on the host",
    )
    group.add_argument("--accelerator", help="device of the hot experts, as torch names it (default: cuda)")
    group.add_argument(
        "--device-models",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="place parts and experts by these device models, written by `model.parallel.placement measure`",
    )
    group.add_argument(
        "--weights",
        choices=get_args(Weights),
        help="form of the weights (default: bf16 or fp32, as in the model's file); on cuda only these two",
    )
    group.add_argument(
        "--keep-packed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep packed weights of the compiled kernels in HOME/packed, so that the next load of the same model is faster",
    )


def read_options(options: argparse.Namespace) -> Hardware:
    """Read the options. Raises ValueError for options that cannot be combined, or a missing device."""
    _check_together(options)
    hardware = Hardware(
        Degrees(options.tensor_parallel, options.expert_parallel),
        _device(options),
        options.hot_experts,
        options.accelerator or Hardware.accelerator,
        tuple(options.device_models),
        options.weights,
        options.keep_packed,
    )
    if hardware.n_hot is not None:
        _require_device(hardware.accelerator)
    return hardware


def check_shape(hardware: Hardware, config: ModelConfig) -> None:
    """Raises MeshError or ConfigError where a model of that shape cannot be spread so."""
    check_degrees(config, hardware.degrees)
    if hardware.n_hot is not None:
        check_hot(config, hardware.n_hot)


def _check_together(options: argparse.Namespace) -> None:
    is_offloaded = options.hot_experts is not None or bool(options.device_models)
    has_ranks = max(options.tensor_parallel, options.expert_parallel) > 1
    if options.weights is not None and (is_offloaded or has_ranks):
        raise ValueError(
            "--weights cannot be combined with several ranks or offloading: leave one of them out"
        )
    if options.hot_experts is not None and options.device_models:
        raise ValueError("--device-models decide how many experts are hot: leave --hot-experts out")
    if is_offloaded and has_ranks:
        raise ValueError("offloading works in a single process: use either offloading or several ranks")
    if options.accelerator is not None and options.hot_experts is None:
        raise ValueError(
            "--accelerator is the device of --hot-experts (--device-models name theirs): leave it out, or "
            "use --device to compute everything there"
        )


def _device(options: argparse.Namespace) -> torch.device:
    """The device that computes everything. `auto` is the host if another option needs it."""
    asked, others = options.device, _not_one_device(options)
    if asked != AUTO and others is not None:
        raise ValueError(
            f"--device names the one device that computes everything, but {others}: leave it out"
        )
    on_host_only = others is not None or options.weights not in (None, *BLOCKS)
    if asked == "cpu" or (asked == AUTO and (on_host_only or not torch.cuda.is_available())):
        return HOST
    if on_host_only:
        raise ValueError(
            f"--weights {options.weights} needs the compiled kernels, on the host: use {' or '.join(BLOCKS)} on cuda"
        )
    if not torch.cuda.is_available():
        reason = "it was built without CUDA" if torch.version.cuda is None else "no driver or no device"
        raise ValueError(
            f"torch sees no CUDA device here ({reason}): leave --device out, or repair that first"
        )
    return torch.device("cuda")


def _not_one_device(options: argparse.Namespace) -> str | None:
    if max(options.tensor_parallel, options.expert_parallel) > 1:
        return "several ranks choose their own"
    if options.hot_experts is not None:
        return "--hot-experts uses --accelerator and the host"
    return "--device-models name theirs" if options.device_models else None


def load_on(
    hardware: Hardware,
    model: str,
    home: Path | None,
    limits: EngineLimits,
    *,
    threads: int | None = None,
    on_loss: Callable[[Exception], None] | None = None,
) -> ServedModel:
    """Load a model with the executor that the hardware options ask for, or the fastest one for it on one device.

    Raises CheckpointError, UnsupportedModel, ConfigError, MeshError, PlacementError, DeviceModelError, RankMissingError,
    ValueError, or LoadError where it certainly does not fit into memory, each with what to change. `on_loss` is called
    when a rank is lost later: the model cannot be served any more then.
    """
    if hardware.degrees.n_ranks == 1 and hardware.device.type == "cpu" and not hardware.is_offloaded:
        kept_in = packed_home(home) if hardware.keeps_packed else None
        return with_executor(open_served(model, home), limits, hardware.weights, kept_in=kept_in)
    check_files_fit(model, home)
    if hardware.degrees.n_ranks > 1:
        served, ranks = distributed.start(
            model, home, hardware.degrees, limits=limits, threads=threads, on_loss=on_loss
        )
        return dataclasses.replace(served, executor=ranks)
    served = load_served(model, home, hardware.device)
    if hardware.device.type == "cuda":
        if hardware.weights is not None:
            served.transformer.cast_blocks(BLOCKS[hardware.weights])
        return dataclasses.replace(served, executor=accelerated_executor(served.transformer, limits))
    config = served.transformer.config
    n_blocks = blocks_within(config, served.transformer.dtype.itemsize, limits)
    offloaded = OffloadExecutor(
        served.transformer,
        _layout(hardware, config, n_blocks * bytes_per_block(served.transformer, BLOCK_TOKENS)),
        lambda spread: TorchExecutor(spread, n_blocks, block_tokens=BLOCK_TOKENS),
    )
    return dataclasses.replace(served, executor=offloaded)


def _layout(hardware: Hardware, config: ModelConfig, cache_bytes: int) -> Layout:
    if hardware.device_models:
        models = [read_device_model(file) for file in hardware.device_models]
        for model in models:
            _require_device(model.kind)
        return Layout.planned(config, models, PLANNED_TOKENS, cache_bytes)
    device = torch.device(hardware.accelerator)
    return Layout(hardware.n_hot or 0, device, HOST, attention=device, dense=device)


def _require_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"there is no device {name!r} here ({reason}): give another --accelerator"
        ) from error
