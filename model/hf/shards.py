"""Safetensors files of a model folder: one file, or several with an index that maps tensors to files.

Reads one tensor at a time and writes one file at a time.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
#: Dtypes by their names in files; torch reads all others.
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def tensor_files(folder: Path) -> dict[Path, list[str]]:
    """The weight files of a folder, and the tensors to read from each. Raises CheckpointError."""
    if (folder / INDEX_FILE).is_file():
        return _indexed(folder)
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        pickled = any(folder.glob("pytorch_model*.bin"))
        hint = (
            "its weights are pickled: save it again with transformers' save_pretrained"
            if pickled
            else "fetch it again"
        )
        raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; {hint}")
    return {file: names_in(file)}


def names_in(file: Path) -> list[str]:
    """The tensors of one file. Raises CheckpointError."""
    with _opened(file) as opened:
        return list(opened.keys())


def read_tensors(files: Mapping[Path, list[str]], wanted: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Read each wanted tensor once, file by file, so that only one is held in addition to those that the caller keeps.

    A tensor keeps its whole file mapped, and pages that were read in memory. Raises CheckpointError for
    a file that is damaged or lacks a tensor.
    """
    for file, names in files.items():
        with _opened(file) as opened:
            for name in filter(wanted.__contains__, names):
                yield name, opened.get_tensor(name)


def describe_tensors(files: Mapping[Path, list[str]], wanted: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """As `read_tensors`, but with shapes and dtypes on the meta device, without reading any data."""
    for file, names in files.items():
        with _opened(file) as opened:
            for name in filter(wanted.__contains__, names):
                header = opened.get_slice(name)
                dtype = FLOATS.get(header.get_dtype()) or opened.get_tensor(name).dtype
                yield name, torch.empty(header.get_shape(), dtype=dtype, device="meta")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it again") from error


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    """Write tensors in their order, starting a new file before one grows beyond `shard_bytes`.

    Views of one tensor may be written if they do not overlap. Raises OSError (disk full, no permission).
    """
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        _write(folder / WEIGHTS_FILE, shards[0], tensors)
        return
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / file, names, tensors)
        where |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _indexed(folder: Path) -> dict[Path, list[str]]:
    try:
        where = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, list[str]] = {}
        for name, file in where.items():
            if Path(file).name != file:
                raise CheckpointError(f"{folder / INDEX_FILE} names {file!r}, which is not in its own folder")
            files.setdefault(folder / file, []).append(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} cannot be read: {error}; fetch it again") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{folder} has no {', '.join(missing)}, which its index names; fetch it again")
    return files


def _shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _write(file: Path, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    on_cpu = {name: tensors[name].detach().to("cpu").contiguous() for name in names}
    save_file(on_cpu, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes it private
