"""Detect that torch's operations are watched (traced, compiled, counted, transformed), which would miss our kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)  # any other subclass may watch operations

_n_off = 0  # contexts of `torch_instead` that are open, of all threads
_changing = threading.Lock()
_own_modes = threading.local()  # as dispatch modes are


@contextmanager
def torch_instead() -> Iterator[None]:
    """Context without our kernels, in all threads, for counting torch's operations and their memory.

    A watched forward pass and its unwatched recomputation must both be within it.
    """
    global _n_off
    with _changing:
        _n_off += 1
    try:
        yield
    finally:
        with _changing:
            _n_off -= 1


class Unwatching(AbstractContextManager[None]):
    """Enters a dispatch mode that calls every operation unchanged, and so does not need to see our kernels."""

    def __init__(self, mode: AbstractContextManager[object]) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        self.mode.__enter__()
        _own_modes.count = _own_mode_count() + 1

    def __exit__(self, *error: Any) -> None:
        _own_modes.count -= 1
        self.mode.__exit__(*error)


def _own_mode_count() -> int:
    return getattr(_own_modes, "count", 0)


def is_torch_wanted() -> bool:
    """Whether even our kernels that are torch operations must not be used: under `torch_instead` or a transformation.

    Forward-mode derivatives count as a transformation: our kernels would lose them without an error.
    """
    return _n_off > 0 or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_watched() -> bool:
    """Whether torch's operations are being recorded, or tensors are stand-ins such as fake tensors."""
    return (
        is_torch_wanted()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > _own_mode_count()
    )
