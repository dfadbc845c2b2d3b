"""AdamW's moments next to a model's weights: read from a checkpoint or a grown folder, written into a grown one.

A run that starts from there loads them with `[model] moments = true`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.growth.derivation import Moments
from model.growth.optimiser import named_moments, set_named_moments
from model.training.config.recipe import Recipe
from model.training.run.checkpoints import STATE_FILE, load
from model.training.run.errors import DamagedCheckpointError, SavedStateError
from model.training.run.state import restore
from model.training.run.trainer import Trainer
from model.transformer import Transformer

MOMENTS_FILE = "moments.safetensors"


def moments_of(folder: Path) -> dict[str, Moments]:
    """Read moments by parameter name, fp32, from a run's checkpoint or a grown folder.

    Raises CheckpointError where the folder has none, and ConfigError for those of an optimiser other than AdamW.
    """
    if (folder / STATE_FILE).is_file():
        return _of_run(folder)
    try:
        tensors = load_file(folder / MOMENTS_FILE)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no moments of an optimiser: name a run's checkpoint (OUTPUT/checkpoints/step-N) or a folder "
            "that was grown from one with --moments"
        ) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / MOMENTS_FILE} cannot be used: {error}; grow the model again"
        ) from error
    moments: dict[str, Moments] = {}
    for label, value in tensors.items():
        name, _, key = label.rpartition(":")
        moments.setdefault(name, {})[key] = value
    return moments


def write_moments(folder: Path, moments: Mapping[str, Moments]) -> None:
    """Write the file of moments. Raises OSError and SafetensorError."""
    file = folder / MOMENTS_FILE
    save_file({f"{name}:{key}": value for name, own in moments.items() for key, value in own.items()}, file)
    file.chmod(0o644)  # safetensors makes it private, the other files are not


def take_moments(trainer: Trainer, folder: Path) -> None:
    """Load moments into a trainer that has made no update yet, from the folder of its model's weights.

    Parameters without moments start without. Raises CheckpointError where they are of another model, and as `moments_of`.
    """
    moments = moments_of(folder)
    try:
        set_named_moments(trainer.model, trainer.optimizer, moments)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the moments in {folder} are not of its model: {error.args[0]}") from error


def _of_run(folder: Path) -> dict[str, Moments]:
    try:
        snapshot, config = load(folder)
        kind = snapshot.facts["optimizer"]["kind"]
        if kind == "muon":
            raise ConfigError(
                f"{folder} is of a run with Muon, whose moments cannot be loaded: leave [model] moments out"
            )
        with (
            torch.random.fork_rng()
        ):  # restoring a run also restores its random numbers, which must not change
            parent = Trainer(Transformer(config), Recipe(optimizer=kind))
            restore(parent, snapshot)
    except (DamagedCheckpointError, SavedStateError) as error:
        raise CheckpointError(str(error)) from error
    return named_moments(parent.model, parent.optimizer)
