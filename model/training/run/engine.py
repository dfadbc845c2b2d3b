"""Interface of a training engine, and the engine of one process; `model/parallel/run/engine.py` has that of a mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from model.config import ModelConfig
from model.data.batches.batch import Batch
from model.growth.moments_file import take_moments
from model.layers.moe import metrics
from model.training.config.run_config import RunConfig
from model.training.losses.distillation import learn_from_teacher, parts
from model.training.optim.ordered_sums import ordered_sums
from model.training.optim.precision import Precision
from model.training.optim.precision_choice import PrecisionChoice
from model.training.report.layer_metrics import summary
from model.training.run.checkpoints import Loaded
from model.training.run.data import TrainingData
from model.training.run.evaluation import Score, held_out_loss
from model.training.run.export import export_model
from model.training.run.micro_batches import split
from model.training.run.setup import device_of, precision_for, trainer_for
from model.training.run.state import Progress, Snapshot, capture, restore
from model.training.run.trainer import Update


class Engine(Protocol):
    """Interface of a model in training, a context manager."""

    config: ModelConfig
    choice: PrecisionChoice  # of the precision
    n_processes: int
    notices: Sequence[str]  # messages for the user about where and how it computes

    @property
    def device(self) -> torch.device:
        """Device of this process."""

    @property
    def has_average(self) -> bool:
        """Whether a moving average of the weights is kept."""

    def update(self, batch: Batch, *, progress: float, learning_rate_scale: float) -> Update:
        """As `Trainer.update`, in the configured number of micro-batches."""

    def measured(self) -> dict[str, float]:
        """Figures of the model's parts in the updates since the last call."""

    def held_out_loss(self, batches: Sequence[Batch], *, of_average: bool) -> Score:
        """Mean nats per target. Raises ValueError where no target is scored."""

    def capture(self, progress: Progress, stream: dict[str, Any], *, run: dict[str, Any]) -> Snapshot:
        """As `state.capture`; the form is the same for every engine."""

    def restore(self, loaded: Loaded) -> Progress:
        """Restore a checkpoint. Raises SavedStateError for one of another optimiser or model."""

    def export(self, folder: Path, *, metadata: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Writes the model as trained so far, averaged where an average is kept. Replaces the folder as a whole."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


def engine_for(config: RunConfig, data: TrainingData, *, saved: Precision | None = None) -> Engine:
    """Build a run's engine; `saved` is the precision of the checkpoint that it will restore.

    Raises ConfigError, CheckpointError, and with several ranks MeshError, RankMissingError.
    """
    if config.parallel is None:
        return OneProcess(config, data, saved=saved)
    from model.parallel.run.engine import ManyProcesses  # imports this package's other modules

    return ManyProcesses(config, config.parallel, data.vocabulary, saved=saved)


class OneProcess:
    """Implements `Engine` over a `Trainer`."""

    n_processes = 1
    notices: Sequence[str] = ()

    def __init__(self, config: RunConfig, data: TrainingData, *, saved: Precision | None = None) -> None:
        self.choice = precision_for(config, device_of(config), saved=saved)
        self.trainer = trainer_for(config, data.vocabulary, self.choice.precision)
        if config.distillation is not None:
            _, longest = config.longest_sequence
            learn_from_teacher(self.trainer, config.distillation, data.files, longest=longest)
        if config.model.moments and config.model.checkpoint is not None:
            take_moments(self.trainer, config.model.checkpoint)
        self.config = self.trainer.model.config
        self._micro_batches = config.compute.micro_batches
        metrics.watch(self.trainer.model)

    @property
    def device(self) -> torch.device:
        return self.trainer.model.device

    @property
    def has_average(self) -> bool:
        return self.trainer.average is not None

    def update(self, batch: Batch, *, progress: float, learning_rate_scale: float) -> Update:
        micro_batches = split(batch, self._micro_batches)
        with ordered_sums(self.device):
            return self.trainer.update(
                micro_batches, progress=progress, learning_rate_scale=learning_rate_scale
            )

    def measured(self) -> dict[str, float]:
        return summary(metrics.collect(self.trainer.model)) | parts(self.trainer.objective)

    def held_out_loss(self, batches: Sequence[Batch], *, of_average: bool) -> Score:
        average = self.trainer.average if of_average else None
        return held_out_loss(self.trainer.model, batches, precision=self.choice.precision, average=average)

    def capture(self, progress: Progress, stream: dict[str, Any], *, run: dict[str, Any]) -> Snapshot:
        return capture(self.trainer, progress, stream, run=run)

    def restore(self, loaded: Loaded) -> Progress:
        return restore(self.trainer, loaded.snapshot)

    def export(self, folder: Path, *, metadata: Mapping[str, Any], files: Mapping[str, str]) -> None:
        export_model(self.trainer, folder, metadata=metadata, files=files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Do nothing: there is nothing to close."""
