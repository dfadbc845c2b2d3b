"""Export a trained model as a model folder: one safetensors file, its shape, its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import CheckpointError, load_config, require_place, save_checkpoint
from model.data.tokenizer import MARKUP_FILE, TOKENIZER_FILE
from model.new_folder import FolderTakenError
from model.serving.api.chat import TEMPLATE_FILE
from model.training.run.checkpoints import STATE_FILE, Checkpoints
from model.training.run.errors import DamagedCheckpointError
from model.training.run.finite_weights import not_finite, require_finite_weights
from model.training.run.state import AVERAGE, MODEL
from model.training.run.trainer import Trainer


def export_model(
    trainer: Trainer, folder: Path, *, metadata: Mapping[str, Any], files: Mapping[str, str]
) -> None:
    """Write the trained weights, or their moving average if one is kept. Replaces an earlier model.

    Raises NotFiniteWeightsError, FolderTakenError and OSError with the folder as it was.
    """
    average, model = trainer.average, trainer.model
    with contextlib.nullcontext() if average is None else average.swapped_in(model):
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        require_finite_weights(trainer.steps, state)
        save_checkpoint(
            folder,
            model.config,
            state,
            metadata={**metadata, "is_average": average is not None},
            files=files,
        )


def export_newest(checkpoints: Path, folder: Path) -> int:
    """Write the newest whole checkpoint below `checkpoints`, its averaged weights if it has some; returns its step.

    Raises CheckpointError where there is none, DamagedCheckpointError where none is whole or the weights
    are not finite, and FolderTakenError where `folder` holds anything but a model that may be replaced.
    """
    require_place(folder)
    if (folder / STATE_FILE).exists():
        raise FolderTakenError(
            f"{folder} is a checkpoint that a run can be resumed from: choose another folder"
        )
    loaded = Checkpoints(checkpoints, keep=1).newest()
    if loaded is None:
        raise CheckpointError(f"{checkpoints} holds no checkpoint: train first")
    state = dict(loaded.snapshot.tensors[MODEL])
    average = loaded.snapshot.tensors.get(AVERAGE, {})
    for name, weight in average.items():
        state[name] = weight.to(state[name].dtype)
    if spoilt := not_finite([state]):
        raise DamagedCheckpointError(
            f"{loaded.folder} holds values that are not finite, in {spoilt[0]} first"
        )
    _, metadata = load_config(loaded.folder)
    files = {
        name: (loaded.folder / name).read_text(encoding="utf-8")
        for name in (TOKENIZER_FILE, MARKUP_FILE, TEMPLATE_FILE)
        if (loaded.folder / name).is_file()
    }
    save_checkpoint(
        folder, loaded.model, state, metadata={**metadata, "is_average": bool(average)}, files=files
    )
    return loaded.snapshot.progress.step
