"""The sandboxed half of suite `moe_forward`: builds the stack's MoE layer and calls it.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import torch


def prepare(threads: int, device: str) -> None:
    tensors.start(threads, device)


def build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The layer of the mounted tree, with the judge's weights."""
    from model.config import MoEConfig
    from model.layers.moe.layer import MoELayer

    device = config.pop("device")
    layer = MoELayer(MoEConfig(**config))
    tensors.load_state(layer, weights, device)
    return layer.eval(), device


def call(state: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """x [1, T, D] -> y [1, T, D]: one batch."""
    layer, device = state
    (x_TD,) = tensors.to_torch(inputs["x"], device)
    with torch.inference_mode():
        return {"y": tensors.to_raw(_plain(layer(x_TD))[None])}


def _plain(y_TD: Any) -> torch.Tensor:
    if type(y_TD) is not torch.Tensor or y_TD.layout is not torch.strided:
        raise TypeError(f"the layer answered with {type(y_TD).__name__}, not with a plain tensor")
    return y_TD
