"""Set a run's objective from its `[distillation]` table.

The teacher is a model folder whose tokenizer is the data's, or a cache of its outputs. Hidden states need the former;
their projections are trained and saved with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from model.checkpoint import load_transformer
from model.config import ConfigError, ModelConfig
from model.data.tokenizer import TOKENIZER_FILE
from model.distill import (
    CachedTeacher,
    CacheError,
    Distillation,
    IncompatibleError,
    LiveTeacher,
    Teacher,
    even_layer_map,
    tokenizer_sha256,
)
from model.training.config.run_config import DistillationConfig
from model.training.losses.objective import Objective
from model.training.optim.precision import Precision, cast_experts
from model.training.run.trainer import Trainer


def learn_from_teacher(
    trainer: Trainer, config: DistillationConfig, files: Mapping[str, str], *, longest: int
) -> None:
    """Set `trainer`'s objective to the distillation's; `files` are those of the student's data, with its tokenizer.

    A sequence has at most `longest` positions. Raises ConfigError where teacher and data do not go together or the
    cache cannot be used, and CheckpointError for a folder without a model.
    """
    if TOKENIZER_FILE not in files:
        raise ConfigError(
            f"[distillation] needs data with a {TOKENIZER_FILE}, to compare it with the teacher's"
        )
    student = trainer.model.config
    try:
        teacher = _teacher(trainer, config, longest)
        distillation = Distillation(
            teacher,
            student,
            tokenizer=tokenizer_sha256(files[TOKENIZER_FILE]),
            temperature=config.temperature,
            weight=config.weight,
            layer_map=_layer_map(config, student, teacher),
            hidden_weight=config.hidden_weight,
        )
    except (IncompatibleError, CacheError, ConfigError) as error:
        raise ConfigError(f"[distillation] {error}") from error
    trainer.learn_by(distillation)


def parts(objective: Objective) -> dict[str, float]:
    """A distillation's losses since the last call, by their names in the log; none for another objective."""
    if not isinstance(objective, Distillation):
        return {}
    collected = objective.collect()
    if collected is None:
        return {}
    found = {"target_loss": collected.target, "teacher_divergence": collected.divergence}
    if collected.hidden is not None:
        found["hidden_loss"] = collected.hidden
    return {name: float(value) for name, value in found.items()}


def _teacher(trainer: Trainer, config: DistillationConfig, longest: int) -> Teacher:
    if config.cache is not None:
        return CachedTeacher.open(config.cache)
    assert config.teacher is not None
    teacher = live_teacher(config.teacher, trainer.model.device, trainer.precision)
    if longest > (most := teacher.model.config.max_context):
        raise IncompatibleError(
            f"the run has sequences of {longest} tokens and the teacher a max_context of {most}: shorten the run's"
        )
    return teacher


def _layer_map(config: DistillationConfig, student: ModelConfig, teacher: Teacher) -> dict[int, int] | None:
    """The student's layers mapped to the teacher's; None if hidden states are not compared."""
    if not config.hidden_weight:
        return None
    if config.layer_map is not None:
        return dict(config.layer_map)
    assert isinstance(teacher, LiveTeacher)
    return even_layer_map(student.n_layers, teacher.model.config.n_layers)


def live_teacher(folder: Path, device: torch.device, precision: Precision) -> LiveTeacher:
    """The model in `folder`, for forward passes under `precision`'s autocast.

    The weights are copied, so that the teacher stays the same if the folder changes during the run.

    Raises CheckpointError, and IncompatibleError where the folder has no tokenizer to compare with a student's.
    """
    model = load_transformer(folder, torch.float32).to(device)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    try:
        tokenizer = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise IncompatibleError(
            f"the teacher {folder} has no {TOKENIZER_FILE}: name the folder of a model with its tokenizer, as a "
            "finished run leaves in OUTPUT/model"
        ) from None
    if precision != "fp32":
        cast_experts(model)
    return LiveTeacher(model, tokenizer=tokenizer_sha256(tokenizer))
