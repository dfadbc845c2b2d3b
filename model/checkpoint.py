"""A model on disk: a folder with config.json, model.safetensors and, where it has one, its tokenizer.

Also names the folders of the local model store. Does not import torch until weights are read or written.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from model.home import home_folder
from model.new_folder import has_format, new_folder, require_free

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.transformer import Transformer

KIND = "gainshare.model"
FORMAT = f"{KIND}/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class CheckpointError(Exception):
    """A folder that holds no usable model; the message says what to do."""


def models_home(home: Path | None = None) -> Path:
    """The local model store, `HOME/models`; HOME is that of `home_folder`."""
    return home_folder(home) / "models"


def is_complete(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` is a model folder of ours, of any version, without subfolders: saving replaces such a folder."""
    return has_format(folder / CONFIG_FILE, KIND) and all(path.is_file() for path in folder.iterdir())


def require_place(folder: Path) -> None:
    """Raises FolderTakenError where `save_checkpoint` would, to be called before long work."""
    require_free(folder, is_model_folder, name="model")


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any],
    files: Mapping[str, str],
) -> None:
    """Write a model folder with extra text `files`, atomically: whole or not at all.

    An existing model is replaced. Raises FolderTakenError where `folder` holds anything else, and OSError
    (disk full, no permission), with nothing left behind.
    """
    with new_folder(folder, is_ours=is_model_folder, name="model") as partial:
        write_model(partial, config, state, metadata=metadata, files=files)


def write_model(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any],
    files: Mapping[str, str],
) -> None:
    """Write the files of `save_checkpoint` into an existing folder. Raises OSError."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private; nodes may run as another user
    document = {"format": FORMAT, "model": config.to_dict(), "metadata": dict(metadata)}
    (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def load_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Shape and metadata of a model folder. Raises CheckpointError."""
    try:
        document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {document['format']!r}; this version reads {FORMAT!r}"
            )
        if not isinstance(document["metadata"], dict):
            raise TypeError("its metadata is not an object")
        return ModelConfig.from_dict(document["model"]), document["metadata"]
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} has no model: {CONFIG_FILE} is missing") from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} cannot be read: {error}; fetch the model again"
        ) from error


def load_transformer(folder: Path, dtype: torch.dtype | None = None) -> Transformer:
    """The model of a folder, in evaluation mode, its blocks in the stored dtype unless told otherwise.

    Weights stay memory-mapped until used. Raises CheckpointError where weights are missing, damaged or of
    another shape than the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    load_config(folder)  # a folder without one holds no model, whatever else it lacks
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise _unusable(folder, error) from error
    return transformer_of(folder, state, dtype)


def transformer_of(
    folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Transformer:
    """The model of `state`, which has that folder's shape, as `load_transformer` returns it; without a copy.

    Raises CheckpointError where `state` lacks tensors or has others.
    """
    from model.layers.unfilled import unfilled
    from model.transformer import Transformer

    config, _ = load_config(folder)
    with unfilled():
        model = Transformer(config)
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise _unusable(folder, error) from error
    _start_counters(model, state)
    return model.requires_grad_(False).eval().cast_blocks(dtype or model.dtype)


def _unusable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder / WEIGHTS_FILE} cannot be used: {error}; fetch the model again")


def _start_counters(model: Transformer, state: Container[str]) -> None:
    """Start counters that are not stored, such as expert load, at zero."""
    import torch

    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if f"{prefix}.{name}" not in state:
                setattr(module, name, torch.zeros_like(buffer, device="cpu"))
