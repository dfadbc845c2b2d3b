"""On what a node computes: one device, several ranks, or an accelerator and the host; its options and the loading.

    --tensor-parallel N --expert-parallel M     ranks on this machine (`distributed.py`)
    --hot-experts N [--accelerator cuda]        N experts of each layer on the accelerator (`offload.py`)
    --device-models FILE FILE                   the same, with N and the rest from measured device models
    --weights int8                              the compiled kernels on the host, with weights in this form

Knows nothing of HTTP or requests.
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
from model.parallel.device_model import read_device_model
from model.serving import distributed
from model.serving.distributed_shard import Degrees
from model.serving.executors import BLOCK_TOKENS, blocks_within, default_executor
from model.serving.generation import EngineLimits
from model.serving.offload import OffloadExecutor
from model.serving.offload_layout import HOST, Layout
from model.serving.packed import Weights
from model.serving.served import ServedModel, load_served
from model.serving.torch_executor import TorchExecutor, bytes_per_block

PLANNED_TOKENS = 16  # of the steps that a layout is planned for: decoding


@dataclass(frozen=True)
class Hardware:
    """What the options say. Without any, the engine's own choice on one device."""

    degrees: Degrees = dataclasses.field(default_factory=Degrees)
    n_hot: int | None = None
    accelerator: str = "cuda"
    device_models: tuple[Path, ...] = ()
    weights: Weights | None = None  # None: as the model's file has them

    @property
    def is_offloaded(self) -> bool:
        return self.n_hot is not None or bool(self.device_models)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options above."""
    group = parser.add_argument_group("hardware", "what computes; by default one device")
    group.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="split heads and widths over N processes"
    )
    group.add_argument(
        "--expert-parallel",
        type=int,
        default=1,
        metavar="N",
        help="spread experts over N (of the same) processes",
    )
    group.add_argument(
        "--hot-experts",
        type=int,
        metavar="N",
        help="keep N experts of each layer on the accelerator, others here",
    )
    group.add_argument("--accelerator", default="cuda", help="as torch names it (default: cuda)")
    group.add_argument(
        "--device-models",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="place parts and experts by what `model.parallel.placement measure` measured",
    )
    group.add_argument(
        "--weights",
        choices=get_args(Weights),
        help="form of the compiled kernels' weights (default: bf16 or fp32, as the model is loaded)",
    )


def read_options(options: argparse.Namespace) -> Hardware:
    """Raises ValueError for options that do not go together, or a device that is not there."""
    hardware = Hardware(
        Degrees(options.tensor_parallel, options.expert_parallel),
        options.hot_experts,
        options.accelerator,
        tuple(options.device_models),
        options.weights,
    )
    if hardware.weights is not None and (hardware.is_offloaded or hardware.degrees.n_ranks > 1):
        raise ValueError(
            "--weights are the compiled kernels': they know neither several ranks nor offloading"
        )
    if hardware.n_hot is not None and hardware.device_models:
        raise ValueError("--device-models say how many experts are hot: leave --hot-experts out")
    if hardware.is_offloaded and hardware.degrees.n_ranks > 1:
        raise ValueError("experts are offloaded by a single process: use either that or several ranks")
    if hardware.n_hot is not None:
        _require_device(hardware.accelerator)
    return hardware


def load_on(
    hardware: Hardware,
    model: str,
    home: Path | None,
    limits: EngineLimits,
    *,
    threads: int | None = None,
    on_loss: Callable[[Exception], None] | None = None,
) -> ServedModel:
    """The model, with the executor that the hardware asks for, or the fastest that there is for it on one device.

    Raises CheckpointError, ConfigError, MeshError, PlacementError, DeviceModelError or RankMissingError, each with
    what to change. `on_loss` is told when a rank is lost later: nothing can be served then.
    """
    if hardware.degrees.n_ranks > 1:
        served, ranks = distributed.start(
            model, home, hardware.degrees, limits=limits, threads=threads, on_loss=on_loss
        )
        return dataclasses.replace(served, executor=ranks)
    served = load_served(model, home)
    if not hardware.is_offloaded:
        executor = default_executor(served.transformer, limits, hardware.weights, consume=True)
        return dataclasses.replace(served, executor=executor)
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
