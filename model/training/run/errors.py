"""Errors that end a training run early. Does not import torch; `faults.py` says what to do about each."""

from __future__ import annotations

import math
from pathlib import Path


class NotFiniteError(ArithmeticError):
    """A loss or gradient that is not finite; the weights are still those before the update."""


class NotFiniteWeightsError(ArithmeticError):
    """Weights, or a loss computed from them, that are not finite after an update: they must not be saved."""


def require_finite(n_done: int, loss: float, norm: float) -> None:
    """Raises NotFiniteError where the loss or the gradients' norm of the update after `n_done` others is not finite.

    The message numbers steps as the log does: the first is step 1.
    """
    step = n_done + 1
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss of step {step} is {loss}")
    if not math.isfinite(norm):
        raise NotFiniteError(f"the gradients of step {step} have norm {norm}, at a loss of {loss:.4f}")


class SavedStateError(Exception):
    """A saved state that does not belong to this run; the message says what differs."""


class DamagedCheckpointError(Exception):
    """A checkpoint whose files are missing or not what was written; the message names the file."""


class FolderInUseError(Exception):
    """Another process trains into this folder; the message names it."""


class RunExistsError(Exception):
    """The output folder already holds a run, and resuming it was not asked for."""


class RunFailedError(Exception):
    """A run that ended after `step` updates; the error that ended it is this one's cause.

    `saved` is its newest checkpoint, and `earlier` the one before that. `is_dead_end` says that the first step
    after `saved` failed. `batch_file` holds the batch that the run failed on, where it could be written.
    """

    def __init__(
        self,
        *,
        step: int,
        saved: Path | None,
        output: Path,
        earlier: Path | None = None,
        is_dead_end: bool = False,
        batch_file: Path | None = None,
    ) -> None:
        super().__init__(f"the run ended after {step} updates")
        self.step, self.saved, self.output, self.batch_file = step, saved, output, batch_file
        self.earlier, self.is_dead_end = earlier, is_dead_end
