"""Read and write Hugging Face model folders: `config.json` and safetensors to and from a configuration and a state."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import CONFIG_FILE, FORMAT, CheckpointError
from model.config import ModelConfig
from model.hf.errors import UnsupportedModel
from model.hf.families.family import Family
from model.hf.families.registry import read_config, write_config
from model.hf.shards import describe_tensors, read_tensors, tensor_files, write_tensors
from model.hf.tensors import (
    HEAD,
    Located,
    check_tied,
    located,
    names_to_read,
    our_shapes,
    put_together,
    take_apart,
)
from model.layers.unfilled import unfilled
from model.new_folder import new_folder
from model.transformer import Transformer

SHARD_BYTES = 5_000_000_000
# Token ids of generation; null is better than a family's default, which is of another vocabulary.
_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def load(folder: Path, *, dtype: torch.dtype | None = None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Load a folder that `save_pretrained` wrote as our configuration (named as the folder) and state, on the CPU.

    Tensors are read one at a time; they keep their dtype unless `dtype` is given. Fields of training only
    are left out with a warning in the log. Raises UnsupportedModel, which names the field, where this stack cannot
    represent the model, and CheckpointError where the folder is incomplete or damaged.
    """
    opened = _open(folder)
    tensors = read_tensors(opened.files, opened.names)
    return opened.config, put_together(opened.family, opened.shapes, tensors, dtype)


def locate(folder: Path) -> tuple[ModelConfig, dict[str, Located], dict[Path, list[str]]]:
    """The configuration, the location of each tensor of our state, and the names in each file.

    Only the files' headers are read, and a head that must equal the embedding. Raises as `load` does.
    """
    opened = _open(folder)
    found = located(opened.family, opened.shapes, describe_tensors(opened.files, opened.names))
    if "head" not in found and HEAD in opened.names:
        embedding = opened.family.their_name("embedding")
        tied = dict(read_tensors(opened.files, {HEAD, embedding}))
        check_tied(tied[HEAD], tied[embedding])
    return opened.config, found, opened.files


@dataclass(frozen=True)
class _Opened:
    """An opened folder whose files have all tensors of its configuration."""

    family: Family
    config: ModelConfig
    shapes: Mapping[str, torch.Size]
    files: dict[Path, list[str]]
    names: set[str]


def _open(folder: Path) -> _Opened:
    theirs = their_json(folder)
    family, config = read_config(theirs, folder.resolve().name)
    shapes, files = our_shapes(config), tensor_files(folder)
    names = names_to_read(family, shapes, chain.from_iterable(files.values()))
    return _Opened(family, config, shapes, files, names)


def to_transformer(config: ModelConfig, state: Mapping[str, Tensor]) -> Transformer:
    """A model that uses the tensors of `state` without a copy, in evaluation mode; they may be on the meta device.

    Raises CheckpointError where `state` is not one of `config`.
    """
    with unfilled():
        model = Transformer(config)
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit {config.name}: {error}") from error
    _materialise_counters(model, state)
    return model.eval()


def save(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    model_type: str | None = None,
    extra: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads as the same model.

    `model_type` selects the family, None the first that can represent the model; `extra` is added to `config.json`
    (such as token ids), `files` are further texts to write (such as a tokenizer). The folder appears whole or not at all.
    Raises UnsupportedModel where no family, or not that one, can represent the model; CheckpointError where `state` is
    not of `config`; FolderTakenError where the folder exists and is not empty; OSError with nothing left behind.
    """
    family, theirs = write_config(config, model_type)
    _check_state(config, state)
    document = {**theirs, "dtype": _dtype_name(state), **_TOKENS, **(extra or {})}
    with new_folder(folder) as partial:
        write_tensors(partial, take_apart(family, state), shard_bytes)
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for name, text in (files or {}).items():
            (partial / name).write_text(text, encoding="utf-8")


def load_json(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a folder. Raises CheckpointError."""
    file = folder / CONFIG_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no model: {CONFIG_FILE} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} is not a JSON object; fetch it again")
    return document


def their_json(folder: Path) -> dict[str, Any]:
    """As `load_json`, of a Hugging Face folder. Raises CheckpointError, UnsupportedModel for one of ours."""
    theirs = load_json(folder)
    if theirs.get("format") == FORMAT:
        raise UnsupportedModel(
            f"{folder} is a model folder of ours, not Hugging Face's: to export it use "
            "`gainshare model export`, or `python -m model.hf export`"
        )
    return theirs


def _check_state(config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    expected = our_shapes(config)
    wrong = [name for name in {**expected, **state} if name not in state or name not in expected]
    wrong += [name for name in expected if name in state and state[name].shape != expected[name]]
    if wrong:
        raise CheckpointError(f"the weights do not fit {config.name}: see {', '.join(wrong[:5])}")


def _dtype_name(state: Mapping[str, Tensor]) -> str:
    """The widest dtype: transformers loads all weights in one dtype, which must not narrow any."""
    dtypes = {tensor.dtype for name, tensor in state.items() if not name.endswith("router.bias")}
    widest = dtypes.pop()
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return str(widest).removeprefix("torch.")


def _materialise_counters(model: Transformer, state: Container[str]) -> None:
    """Start the counters of training, which are buffers outside of the state, at zero."""
    for prefix, module in model.named_modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if f"{prefix}.{name}" not in state:
                module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype), persistent=False)
