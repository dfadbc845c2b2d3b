"""The sandboxed half of suite `moe_forward`: builds the stack's MoE layer and calls it.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"float32": torch.float32}


def prepare(threads: int) -> None:
    """Before the tree is imported: torch's threads and the libraries behind its first matmul."""
    torch.set_num_threads(threads)
    torch.ones(8, 8) @ torch.ones(8, 8)


def _tensor(dtype: str, shape: tuple[int, ...], data: memoryview) -> torch.Tensor:
    return torch.frombuffer(data, dtype=DTYPES[dtype]).view(shape)


def build(config: dict[str, Any], weights: dict[str, tuple[str, tuple[int, ...], memoryview]]) -> Any:
    """The layer of the mounted tree, with the judge's weights."""
    from model.config import MoEConfig
    from model.layers.moe import MoELayer

    layer = MoELayer(MoEConfig(**config))
    # Weights arrive in one read-write buffer that is given up after loading: copy, as a checkpoint would.
    layer.load_state_dict({name: _tensor(*weight).clone() for name, weight in weights.items()})
    return layer.eval()


def call(
    state: Any, inputs: dict[str, tuple[str, tuple[int, ...], memoryview]]
) -> tuple[str, tuple[int, ...], Any]:
    """x [T, D] -> y [T, D], as (dtype, shape, bytes)."""
    with torch.inference_mode():
        y_TD = state(_tensor(*inputs["x"]))
    if type(y_TD) is not torch.Tensor or y_TD.device.type != "cpu" or y_TD.layout is not torch.strided:
        raise TypeError(f"the layer answered with {type(y_TD).__name__}, not with a plain tensor")
    dtype = str(y_TD.dtype).removeprefix("torch.")
    return dtype, tuple(y_TD.shape), y_TD.contiguous().view(torch.uint8).numpy().data.cast("B")
