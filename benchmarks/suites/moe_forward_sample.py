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
    """x [B, T, D] -> y [B, T, D], one batch after the other, as (dtype, shape, bytes).

    Each batch of several has memory of its own: the layer is not handed the others along with it.
    """
    x_BTD = _tensor(*inputs["x"])
    batches = [x_BTD[0]] if len(x_BTD) == 1 else [x_TD.clone() for x_TD in x_BTD]
    with torch.inference_mode():
        answers = [_plain(state(x_TD)) for x_TD in batches]
        y_BTD = answers[0][None] if len(answers) == 1 else torch.stack(answers)
    dtype = str(y_BTD.dtype).removeprefix("torch.")
    return dtype, tuple(y_BTD.shape), y_BTD.contiguous().view(torch.uint8).numpy().data.cast("B")


def _plain(y_TD: Any) -> torch.Tensor:
    if type(y_TD) is not torch.Tensor or y_TD.device.type != "cpu" or y_TD.layout is not torch.strided:
        raise TypeError(f"the layer answered with {type(y_TD).__name__}, not with a plain tensor")
    return y_TD
