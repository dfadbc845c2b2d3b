"""Place a model's modules and experts on an accelerator and the host.

The residual stream, embedding, head, norms, attention and its cache are on one device; feed-forwards, routers and
shared experts may be on another, and the routed experts on two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.config import ConfigError, ModelConfig
from model.layers.block import Block
from model.layers.moe.layer import MoELayer
from model.layers.sharing import is_lent
from model.parallel.placement.device_model import DeviceModel
from model.parallel.placement.parts import Placement, place
from model.serving.offload.experts import MovableExperts
from model.transformer import Transformer

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Layout:
    """Devices of a model's parts; of each MoE layer's experts `n_hot` are on `accelerator`, the others on `host`."""

    n_hot: int
    accelerator: torch.device
    host: torch.device = HOST
    attention: torch.device = HOST
    dense: torch.device = HOST

    @classmethod
    def of(cls, placement: Placement, devices: Mapping[str, torch.device], n_experts: int) -> Layout:
        """The layout of `placement.place`; `devices` are those of the device models, by name.

        Raises ConfigError for a device model that no device was given for.
        """
        missing = sorted(set(placement.devices.values()) - set(devices))
        if missing:
            raise ConfigError(
                f"the placement names {', '.join(missing)}: give a device for each device model"
            )
        experts = devices[placement.devices["experts"]]
        split = placement.experts
        n_hot = 0 if split is None or experts.type == HOST.type else split.n_hot
        return cls(
            n_hot=min(n_hot, n_experts),
            accelerator=experts,
            attention=devices[placement.devices["attention"]],
            dense=devices[placement.devices["dense"]],
        )

    @classmethod
    def planned(
        cls, config: ModelConfig, models: Sequence[DeviceModel], n_tokens: int, cache_bytes: int = 0
    ) -> Layout:
        """The fastest layout for steps of so many tokens on this machine's devices, each by its measured model.

        `cache_bytes` of keys and values are on attention's device. Raises PlacementError where the model fits on no
        assignment.
        """
        placement = place(config, models, n_tokens, is_training=False, cache_bytes=cache_bytes)
        devices = {model.name: HOST if model.is_host else torch.device(model.kind) for model in models}
        return cls.of(placement, devices, 0 if config.moe is None else config.moe.n_experts)


def check_hot(config: ModelConfig, n_hot: int) -> None:
    """Raises ConfigError where a layer has not so many experts."""
    n_experts = 0 if config.moe is None else config.moe.n_experts
    if not 0 <= n_hot <= n_experts:
        raise ConfigError(
            f"--hot-experts {n_hot} is not possible: {config.name} has {n_experts} experts per layer"
        )


def spread(model: Transformer, layout: Layout) -> list[MovableExperts]:
    """Move the model's modules in place and return its MoE layers' experts, in the order of their layers.

    The first `n_hot` experts of a layer start on the accelerator, before any counts. Raises ConfigError where there
    are not so many.
    """
    check_hot(model.config, layout.n_hot)
    movable: list[MovableExperts] = []
    for block in cast("list[Block]", list(model.layers)):
        if not is_lent(block, "ffn"):  # else it is another block's and visited there
            if isinstance(block.ffn, MoELayer):
                movable.append(_spread_experts(block.ffn, layout))
            else:
                block.ffn.to(layout.dense)
            if layout.dense != layout.attention:
                _visit(block.ffn, layout.dense, layout.attention)
        for name, module in block.named_children():
            if name != "ffn":
                module.to(layout.attention)
    model.norm.to(layout.attention)
    for name in ("embedding", "head"):
        weight = getattr(model, name)
        if weight is not None:
            weight.data = weight.data.to(layout.attention)
    return movable


def _spread_experts(layer: MoELayer, layout: Layout) -> MovableExperts:
    experts = MovableExperts(layer.experts, range(layout.n_hot), layout.accelerator, layout.host)
    layer.experts = nn.Identity()  # type: ignore[assignment]  # experts stay where they are when the layer moves
    layer.to(layout.dense)
    layer.experts = experts.index_on(layout.dense)  # type: ignore[assignment]
    return experts


def _visit(module: nn.Module, there: torch.device, home: torch.device) -> None:
    """Move the stream from `home` to a module's device and its output back."""

    def go(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.to(there) if isinstance(x, Tensor) else x for x in arguments)

    def come_back(_: nn.Module, __: tuple[Any, ...], y: Tensor) -> Tensor:
        return y.to(home)

    module.register_forward_pre_hook(go)
    module.register_forward_hook(come_back)
