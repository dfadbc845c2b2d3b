"""Training state: capture a run as named tensors and plain JSON, and restore it.

The state is complete: a run that is built from the same configuration and restored continues bit for bit as if it
had not stopped, on the same machine with the same number of threads. A stream's state is stored unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.training.run.errors import SavedStateError
from model.training.run.trainer import Trainer

MODEL, OPTIMIZER, AVERAGE, RANDOM = "model", "optimizer", "average", "random"
OBJECTIVE = "objective"  # parameters trained with the model, such as projections of hidden states


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    step: int = 0
    tokens: int = 0  # without padding
    targets: int = 0  # scored ones
    seconds: float = 0.0  # spent in training, over all its starts


@dataclass(frozen=True)
class Snapshot:
    """`tensors` by part (`MODEL` ...) and name; `facts` is plain JSON."""

    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]

    @property
    def progress(self) -> Progress:
        return Progress(**self.facts["progress"])


def capture(
    trainer: Trainer, progress: Progress, stream: dict[str, Any], *, run: dict[str, Any] | None = None
) -> Snapshot:
    """Capture the state as a view, not a copy: write it before the next update. `run` is stored for a resumed run."""
    optimizer, scalars = _optimizer_state(trainer)
    tensors = {
        MODEL: {name: tensor.detach() for name, tensor in trainer.model.state_dict().items()},
        OPTIMIZER: optimizer,
        RANDOM: _random_state(trainer.model.device),
    }
    if trainer.average is not None:
        tensors[AVERAGE] = dict(trainer.average.weights)
    if trainer.objective_parameters:
        tensors[OBJECTIVE] = {name: value.detach() for name, value in trainer.objective_parameters.items()}
    facts = {
        "progress": vars(progress).copy(),
        "stream": stream,
        "run": run or {},
        "optimizer": {"kind": trainer.recipe.optimizer, "scalars": scalars},
        "scaler": trainer.scaler.state_dict(),
    }
    return Snapshot(tensors, facts)


def restore(trainer: Trainer, snapshot: Snapshot) -> Progress:
    """Restore a snapshot into `trainer`, just built from the same shape and recipe.

    Raises SavedStateError for the state of another model or optimiser; the trainer must not be used afterwards.
    """
    kind = snapshot.facts["optimizer"]["kind"]
    if kind != trainer.recipe.optimizer:
        raise SavedStateError(
            f"the saved state is of optimizer {kind!r}, this recipe says {trainer.recipe.optimizer!r}"
        )
    try:
        # Copied into the existing tensors, never assigned: mapped memory may be aligned otherwise, and the order of
        # sums in matrix products depends on alignment.
        trainer.model.load_state_dict(snapshot.tensors[MODEL])
        _restore_objective(trainer, snapshot.tensors.get(OBJECTIVE, {}))
        _restore_optimizer(trainer, snapshot.tensors[OPTIMIZER], snapshot.facts["optimizer"]["scalars"])
        if trainer.average is not None:
            _restore_average(trainer, snapshot.tensors.get(AVERAGE))
    except (RuntimeError, KeyError, ValueError) as error:
        raise SavedStateError(f"the saved state is not of this model: {error}") from error
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(snapshot.facts["scaler"])
    _restore_random(trainer.model.device, snapshot.tensors[RANDOM])
    progress = snapshot.progress
    trainer.steps = progress.step
    return progress


def _optimizer_state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state, named by parameter and key, so that the order of parameters does not matter."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter in trainer.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}:{key}"] = value.detach()
            else:
                scalars[f"{name}:{key}"] = value
    return tensors, scalars


@torch.no_grad()
def _restore_objective(trainer: Trainer, saved: dict[str, Tensor]) -> None:
    """Restore the objective's parameters. Raises ValueError for one that was not saved."""
    for name, parameter in trainer.objective_parameters.items():
        if name not in saved or saved[name].shape != parameter.shape:
            raise ValueError(
                f"it does not hold {name} of this shape: a loss on hidden states may be dropped or weighted differently, "
                "but not added or given other layers"
            )
        parameter.copy_(saved[name])


def _restore_optimizer(trainer: Trainer, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    parameters: dict[str, nn.Parameter] = dict(trainer.named_parameters())
    trainer.optimizer.state.clear()
    for label, value in (*tensors.items(), *scalars.items()):
        name, key = label.rsplit(":", 1)
        if name.startswith(f"{OBJECTIVE}.") and name not in parameters:
            continue
        parameter = parameters[name]
        if isinstance(value, Tensor):
            value = torch.empty_like(value, device=parameter.device).copy_(value)
        trainer.optimizer.state[parameter][key] = value


def _restore_average(trainer: Trainer, weights: dict[str, Tensor] | None) -> None:
    assert trainer.average is not None
    if weights is None:
        raise ValueError("it holds no moving average: leave Recipe.ema_decay out")
    trainer.average.load(weights)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random(device: torch.device, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
