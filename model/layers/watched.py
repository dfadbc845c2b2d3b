"""Whether torch's operations are being watched, so that kernels of our own would go unseen: tracing, compiling,
counting, transforming.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)  # any subclass of them may be watching

_n_off = 0  # contexts of `torch_instead` that are open, of all threads
_changing = threading.Lock()
_own_modes = threading.local()  # as dispatch modes are


@contextmanager
def torch_instead() -> Iterator[None]:
    """Within it no kernels of our own are used, in any thread: for what counts torch's operations and their memory.

    A forward pass that something watches and its recomputation that nothing does must both be within it.
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
    """Enters a dispatch mode that calls every operation again where it was called before, and so misses no kernel of ours."""

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
    """Whether also kernels that torch knows as its operations must stay away: asked for, or while functions are transformed.

    Forward-mode derivatives count as a transformation: a kernel of ours would lose them without a word.
    """
    return _n_off > 0 or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_watched() -> bool:
    """Whether calls of torch's operations are being recorded, or tensors stand for others."""
    return (
        is_torch_wanted()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > _own_mode_count()
    )
