"""Trials of one tree's layer, each in a fork of the process that loaded it and of a freshly drawn size.

Shared by the harnesses that go on after a trial has failed. A trial prints one line: {"seconds"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from layer import D_MODEL  # type: ignore[import-not-found]

SIZES = (1, 256)  # tokens, as requests come
CALLS = 3
MOST_TRIALS = 40


def trials(layer: Any) -> Iterator[bytes]:
    """What each trial printed; nothing of one that ended before it could."""
    draw = random.Random(0)  # sizes, no secrets
    for _ in range(MOST_TRIALS):
        yield _trial(layer, draw.choice(SIZES))


def _trial(layer: Any, tokens: int) -> bytes:
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        os.dup2(write_fd, 1)
        _measure(layer, tokens)
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        printed = pipe.read()
    os.waitpid(child, 0)
    return printed


def _measure(layer: Any, tokens: int) -> None:
    line: dict[str, Any]
    try:
        x_TD = torch.randn(tokens, D_MODEL)
        with torch.inference_mode():
            layer(x_TD)
            start = time.perf_counter()
            for _ in range(CALLS):
                layer(x_TD)
        line = {"seconds": (time.perf_counter() - start) / CALLS}
    except Exception as error:
        line = {"error": str(error)}
    os.write(1, json.dumps(line).encode() + b"\n")
