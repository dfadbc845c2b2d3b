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
    return Passes(layer.train(), tuple(weights), device)


def call(state: Passes, inputs: dict[str, Any]) -> dict[str, Any]:
    """x [1, T, D] -> y [1, T, D]; then grad_y [1, T, D] -> grad.x [1, T, D] and the gradient of every weight."""
    answers = state.forward(inputs["x"]) if "x" in inputs else state.backward(inputs["grad_y"])
    return {name: tensors.to_raw(value) for name, value in answers.items()}


class Passes:
    """The layer between its forward and its backward pass."""

    def __init__(self, layer: Any, names: tuple[str, ...], device: str) -> None:
        self._layer, self._names, self._device = layer, names, device
        self._x_TD = self._y_TD = torch.empty(0)

    def forward(self, x: Any) -> dict[str, torch.Tensor]:
        self._x_TD = tensors.to_torch(x, self._device)[0].requires_grad_(True)
        self._layer.zero_grad(set_to_none=True)
        self._y_TD = self._layer(self._x_TD)
        return {"y": self._y_TD[None]}

    def backward(self, grad_y: Any) -> dict[str, torch.Tensor]:
        self._y_TD.backward(tensors.to_torch(grad_y, self._device)[0])  # type: ignore[no-untyped-call]
        answers = {f"{GRADIENT}x": _gradient("x", self._x_TD)[None]}
        for name in self._names:
            answers[GRADIENT + name] = _gradient(name, self._layer.get_parameter(name))
        return answers


def _gradient(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.grad is None:
        raise RuntimeError(f"the backward pass left no gradient of {name}")
    return tensor.grad
