"""A model on disk: a folder with config.json, model.safetensors and, where it has one, its tokenizer.

Also names the folders of the local model store. Knows nothing of where weights come from. Does not import torch
until weights are read or written.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import ConfigError, ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.transformer import Transformer

FORMAT = "gainshare.model/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class CheckpointError(Exception):
    """A folder that holds no usable model; the message says what to do."""


def models_home(home: Path | None = None) -> Path:
    """`HOME/models`; HOME is the argument, else GAINSHARE_HOME, else `.gainshare` beside the code."""
    beside = Path(__file__).resolve().parents[1] / ".gainshare"
    return (home or Path(os.environ.get("GAINSHARE_HOME") or beside)) / "models"


def is_complete(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any],
    files: Mapping[str, str],
) -> None:
    """Writes a model folder with extra text `files`, atomically: it is there whole or not at all.

    An existing folder is replaced. Raises OSError (disk full, no permission) with nothing left behind.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS_FILE)
        document = {"format": FORMAT, "model": config.to_dict(), "metadata": dict(metadata)}
        (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private; nodes may run as another user
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed `save_checkpoint` left beside `folder`. Call it only while nobody else saves there."""
    for partial in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(partial, ignore_errors=True)


def load_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Shape and metadata of a model folder. Raises CheckpointError."""
    try:
        document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {document['format']!r}; this version reads {FORMAT!r}"
            )
        return ModelConfig.from_dict(document["model"]), document["metadata"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no model: {CONFIG_FILE} is missing") from None
    except (KeyError, TypeError, json.JSONDecodeError, ConfigError) as error:
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

    from model.layers.unfilled import unfilled
    from model.transformer import Transformer

    config, _ = load_config(folder)
    with unfilled():
        model = Transformer(config)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} cannot be used: {error}; fetch the model again"
        ) from error
    _start_counters(model)
    return model.requires_grad_(False).eval().cast_blocks(dtype or model.dtype)


def _start_counters(model: Transformer) -> None:
    """What is counted and never stored, such as expert load, starts at zero; it is all that no file has filled."""
    import torch

    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros_like(buffer, device="cpu"))
