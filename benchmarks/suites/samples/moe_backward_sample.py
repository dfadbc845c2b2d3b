"""The sandboxed half of suite `moe_backward`: the stack's MoE layer in training, forward and back.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import torch

GRADIENT = "grad."


def prepare(threads: int, device: str) -> None:
    tensors.start(threads, device)
    ones = torch.ones(8, 8, device=device, requires_grad=True)
    (ones @ ones).sum().backward()  # type: ignore[no-untyped-call]  # starts autograd's own thread


def build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The layer of the mounted tree, with the judge's weights."""
    from model.config import MoEConfig
    from model.layers.moe.layer import MoELayer

    device = config.pop("device")
    layer = MoELayer(MoEConfig(**config))
    tensors.load_state(layer, weights, device)
    return layer.train(), tuple(weights), device


def call(state: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """x, grad_y [1, T, D] -> y, grad.x [1, T, D] and the gradient of every weight."""
    layer, names, device = state
    x_TD, grad_y_TD = (tensors.to_torch(inputs[name], device)[0] for name in ("x", "grad_y"))
    x_TD.requires_grad_(True)
    layer.zero_grad(set_to_none=True)
    y_TD = layer(x_TD)
    y_TD.backward(grad_y_TD)
    answers = {"y": y_TD[None], f"{GRADIENT}x": _gradient("x", x_TD)[None]}
    for name in names:
        answers[GRADIENT + name] = _gradient(name, layer.get_parameter(name))
    return {name: tensors.to_raw(value) for name, value in answers.items()}


def _gradient(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.grad is None:
        raise RuntimeError(f"the backward pass left no gradient of {name}")
    return tensor.grad
