"""Load a model for serving; a failure has one code: missing, unusable, or too large for memory.

Memory is checked first: a machine that overcommits would kill the node, and its answers, instead of failing the load.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from model.checkpoint import CheckpointError
from model.config import ModelConfig
from model.hf.errors import UnsupportedModel
from model.serving.api.errors import LoadError
from model.serving.executors.base import Executor, Part
from model.serving.node.served import ServedModel, find_folder, load_served

T = TypeVar("T")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
_OUT_OF_MEMORY = ("out of memory", "cannot allocate memory", "can't allocate memory", "not enough memory")


def load(name: str, home: Path | None = None) -> ServedModel:
    """Load the model of that name or folder, with all of its weights. Raises LoadError."""
    check_found(name, home)
    check_files_fit(name, home)
    return without_running_out(lambda: load_served(name, home))


def check_found(name: str, home: Path | None = None) -> None:
    """Raises LoadError where there is no such model."""
    try:
        find_folder(name, home)
    except CheckpointError as error:
        raise LoadError(404, "model_not_found", str(error)) from error


def check_files_fit(name: str, home: Path | None = None) -> None:
    """Raises LoadError where there is certainly not enough memory for the weights as the model's files have them.

    Raises CheckpointError where there is no such model.
    """
    folder = find_folder(name, home)
    if folder is not None:
        check_fits(weight_bytes(folder))


def check_fits(needed: int) -> None:
    """Raises LoadError if this process certainly cannot get so many bytes."""
    check_memory(needed, available_memory())


def check_answers(executor: Executor, config: ModelConfig, name: str) -> None:
    """Check one step over tokens from all of the vocabulary; it writes into the cache's first block.

    Raises LoadError where a token's logits have no finite maximum: no token could be chosen.
    """
    n_tokens = min(executor.block_tokens, config.max_context)
    tokens = [i * config.vocab_size // n_tokens for i in range(n_tokens)]
    logits_NV = executor.step([Part(tokens, past=0, blocks=[0], n_logits=n_tokens)])
    if not np.isfinite(logits_NV.max(axis=-1)).all():
        message = (
            f"{name} computes values that are not finite: its weights are damaged, fetch or save it again"
        )
        raise LoadError(422, "model_not_usable", message)


def without_running_out(make: Callable[[], T]) -> T:
    """The result of `make`. Raises LoadError for errors of files and memory."""
    try:
        return make()
    except (CheckpointError, UnsupportedModel, MemoryError, OSError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            message = "the model does not fit into memory: choose a smaller one, or free memory first"
            raise LoadError(507, "out_of_memory", message) from error
        if isinstance(error, (CheckpointError, UnsupportedModel, ValueError)):
            raise LoadError(422, "model_not_usable", str(error)) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error or its cause is a lack of memory, for which torch has no error class on the CPU."""
    for cause in _causes(error):
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        if any(words in str(cause).lower() for words in _OUT_OF_MEMORY):
            return True
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def check_memory(needed: int, available: int | None) -> None:
    """Raises LoadError if `available` bytes are too few. None: unknown."""
    if available is not None and needed > available:
        gib = f"{needed / 2**30:.1f} GiB are needed, {available / 2**30:.1f} GiB are available"
        message = f"the model does not fit into memory ({gib}): choose a smaller one, or free memory first"
        raise LoadError(507, "out_of_memory", message)


def available_memory() -> int | None:
    """Bytes that this process could still get, by the machine and its control group; None off Linux."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        machine = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    group = _group_memory()
    return machine if group is None else min(machine, group)


def _group_memory() -> int | None:
    """Bytes that are left in this process's control group (version 2); None without a limit."""
    try:
        path = next(
            line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
        )
        folder = CGROUP / path.lstrip("/")
        limit = (folder / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((folder / "memory.current").read_text())
    except (OSError, StopIteration, ValueError):
        return None
