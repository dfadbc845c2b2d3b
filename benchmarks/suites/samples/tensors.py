"""Raw tensors of the judge's protocol to torch and back. Mounted next to every suite's sandboxed half.

Runs inside the sandbox only; whatever leaves it is checked from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

RawTensor = tuple[str, tuple[int, ...], Any]  # dtype, shape, a bytes-like object

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
}


def start(threads: int, device: str) -> None:
    """Prepare torch before the tree is imported: its threads, and the libraries that its first matmul loads."""
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("the job asks for CUDA, and torch finds no CUDA device in this sandbox")
    ones = torch.ones(8, 8, device=device)
    (ones @ ones).sum().item()


def to_torch(raw: RawTensor, device: str = "cpu") -> torch.Tensor:
    """Tensors of a message, on the CPU without a copy: the buffer belongs to this message alone."""
    dtype, shape, data = raw
    if memoryview(data).nbytes == 0:
        return torch.empty(shape, dtype=DTYPES[dtype], device=device)
    tensor = torch.frombuffer(data, dtype=DTYPES[dtype]).view(shape)
    return tensor if device == "cpu" else tensor.to(device)


def to_raw(tensor: Any) -> RawTensor:
    """The tensor's bytes on the CPU; a copy from a device waits until it has been computed."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
        raise TypeError(f"the stack answered with {type(tensor).__name__}, not with a plain tensor")
    tensor = tensor.detach().cpu().contiguous()
    data = tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data


def load_state(module: torch.nn.Module, weights: Mapping[str, RawTensor], device: str = "cpu") -> None:
    """Give `module` the judge's weights. They arrive in one buffer that is given up: copy, as a checkpoint would."""
    module.load_state_dict({name: to_torch(raw).clone() for name, raw in weights.items()})
    module.to(device)
