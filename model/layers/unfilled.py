"""Modules without memory: shapes and dtypes on the meta device, to read them or to assign a state to.

Initialisation on the meta device would import torch's compiler, which takes a second and some 90 MiB, so it is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled() -> Iterator[None]:
    """Context in which modules are made on the meta device, without random initialisation."""
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is nn.init.normal_:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
