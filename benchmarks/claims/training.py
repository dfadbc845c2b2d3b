"""One training run on real text with its held-out scores: what most claims compare.

`settings` are those of `TrainingRun`. The model starts from random weights of its seed, or from another run's; it may
be grown first, learn from a teacher, or multiply in 8 bits. A run whose loss is no longer finite has diverged and says
so: its scores are infinite.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.claims.bench import Job, Result
from benchmarks.claims.scale import Scale
from model.config import ModelConfig
from model.data.arrow.data_folder import DataFolder, open_data_folder
from model.data.batches.batch import Batch
from model.data.batches.curriculum import Curriculum, Stage
from model.data.batches.evaluation import evaluation_batches
from model.data.batches.stream import DataStream
from model.distill import Distillation, LiveTeacher
from model.growth import upcycle_halves
from model.layers.quantisation.convert import quantise_training
from model.training.config.recipe import Recipe
from model.training.report.flops import training_cost
from model.training.run.errors import NotFiniteError
from model.training.run.trainer import Trainer
from model.transformer import Transformer

WEIGHTS = "weights.safetensors"
EQUAL_MIX = {"general": 1.0, "domain": 1.0}
# Sizes of a step's and a score's text, in addition to what claims choose.
SIZES: dict[Scale, dict[str, Any]] = {
    "quick": {"batch_tokens": 256, "scored_tokens": 8_192},
    "full": {"sequence_length": 256, "batch_tokens": 512, "scored_tokens": 32_768},
}
PLAIN: dict[str, Any] = {"schedule": "cosine", "final_share": 0.1}  # of claims without a curriculum


@dataclass(frozen=True)
class TrainingRun:
    """Model, data and length of a training run. `data`, `teacher` and `start` are keys of other jobs."""

    model: dict[str, Any]
    data: str
    n_tokens: int
    learning_rate: float
    seed: int
    sequence_length: int = 128
    batch_tokens: int = 1024
    curriculum: dict[str, Any] | None = None  # None: `EQUAL_MIX` from the first to the last token
    recipe: dict[str, Any] = field(default_factory=lambda: dict(PLAIN))
    n_scores: int = 1  # evenly spread, the last one at the end
    scored_kinds: tuple[str, ...] = ("general", "domain")
    scored_tokens: int = 16_384  # of each kind
    scores_start: bool = False  # also before the first step
    eight_bit: str | None = None
    teacher: str | None = None
    teacher_model: dict[str, Any] | None = None
    distil_weight: float = 0.5
    temperature: float = 2.0
    start: str | None = None
    grow: dict[str, Any] | None = None  # arguments of upcycle_halves; `model` is then the parent's
    keeps_weights: bool = False

    def job(self, timeout_s: float = 4 * 3600.0) -> Job:
        return Job("training", asdict(self), timeout_s=timeout_s)


def loss_of(result: Result, kinds: tuple[str, ...] | None = None, at: int = -1) -> float:
    """Held-out loss in nats a token, each kind weighing the same; of the last score unless `at` says otherwise."""
    scores = result["points"][at]["scores"]
    chosen = kinds or tuple(scores)
    return sum(float(scores[kind]["loss"]) for kind in chosen) / len(chosen)


def accuracy_of(result: Result) -> float:
    """Share of held-out tokens that are the model's first choice at the end, each kind weighing the same."""
    scores = result["points"][-1]["scores"]
    return sum(float(kind["accuracy"]) for kind in scores.values()) / len(scores)


def work(settings: dict[str, Any], made: Path) -> Result:
    run = TrainingRun(**{**settings, "scored_kinds": tuple(settings["scored_kinds"])})
    torch.set_num_threads(1)
    data = open_data_folder(made.parent / run.data)
    model = _model(run, made.parent)
    trainer = _trainer(run, model, data, made.parent)
    held_out = _held_out(run, data)
    points = [{"tokens": 0, "scores": _scores(model, held_out)}] if run.scores_start else []
    has_diverged = False
    with _stream(run, data) as stream:
        wanted = [run.n_tokens * (number + 1) / run.n_scores for number in range(run.n_scores)]
        while wanted:
            moment = stream.curriculum.at(stream.tokens_seen)
            progress = stream.tokens_seen / run.n_tokens
            try:
                trainer.update(
                    [next(stream)], progress=progress, learning_rate_scale=moment.learning_rate_scale
                )
            except NotFiniteError:
                has_diverged = True
                break
            if stream.tokens_seen >= wanted[0]:
                points.append({"tokens": stream.tokens_seen, "scores": _scores(model, held_out)})
                wanted = [tokens for tokens in wanted if tokens > stream.tokens_seen]
        n_tokens = stream.tokens_seen
    if has_diverged:
        points.append({"tokens": n_tokens, "scores": dict.fromkeys(run.scored_kinds, DIVERGED)})
    if run.keeps_weights and not has_diverged:
        _save(model, made)
    return {
        "points": points,
        "tokens": n_tokens,
        "steps": trainer.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stored_bytes": _stored_bytes(model),
        "flops": training_cost(model.config).per_token * n_tokens,
        "has_diverged": has_diverged,
    }


DIVERGED = {"loss": math.inf, "accuracy": 0.0}


def _model(run: TrainingRun, jobs: Path) -> Transformer:
    torch.manual_seed(run.seed)
    config = ModelConfig.from_dict(run.model)
    state = None if run.start is None else load_file(jobs / run.start / WEIGHTS)
    if run.grow is not None:
        if state is None:
            raise ValueError("only a model that is there can grow: give start")
        growth = upcycle_halves(config, **run.grow)
        config, state = growth.config, growth.state(state)
    model = Transformer(config)
    if state is not None:
        model.load_state_dict(state)
    if run.eight_bit is not None:
        quantise_training(model, run.eight_bit)  # type: ignore[arg-type]  # it checks the name
    return model


def _trainer(run: TrainingRun, model: Transformer, data: DataFolder, jobs: Path) -> Trainer:
    trainer = Trainer(model, Recipe(learning_rate=run.learning_rate, **run.recipe))
    if run.teacher is None:
        return trainer
    assert run.teacher_model is not None
    teacher = Transformer(ModelConfig.from_dict(run.teacher_model))
    teacher.load_state_dict(load_file(jobs / run.teacher / WEIGHTS))
    tokenizer = data.tokenizer.sha256
    trainer.objective = Distillation(
        LiveTeacher(teacher, tokenizer=tokenizer),
        model.config,
        tokenizer=tokenizer,
        temperature=run.temperature,
        weight=run.distil_weight,
    )
    return trainer


def _stream(run: TrainingRun, data: DataFolder) -> DataStream:
    if run.curriculum is None:
        stage = Stage("all", 1.0, EQUAL_MIX, run.sequence_length)
        curriculum = Curriculum((stage,), run.n_tokens)
    else:
        curriculum = Curriculum.from_dict(run.curriculum)
        if curriculum.total_tokens != run.n_tokens:
            curriculum = replace(curriculum, total_tokens=run.n_tokens)
    sources = data.sources()
    return DataStream(
        {name: sources[name] for name in curriculum.sources},
        curriculum,
        batch_tokens=run.batch_tokens,
        seed=run.seed,
    )


def _held_out(run: TrainingRun, data: DataFolder) -> dict[str, list[Batch]]:
    return {
        kind: list(
            evaluation_batches(
                data.documents(kind, "held_out"),
                sequence_length=run.sequence_length,
                batch_tokens=8 * run.sequence_length,
                max_tokens=run.scored_tokens,
            )
        )
        for kind in run.scored_kinds
    }


@torch.no_grad()
def _scores(model: Transformer, held_out: dict[str, list[Batch]]) -> dict[str, dict[str, float]]:
    """Loss in nats a target and share of right first choices, of each kind."""
    model.eval()
    scores = {kind: _score(model, batches) for kind, batches in held_out.items()}
    model.train()
    return scores


def _score(model: Transformer, batches: list[Batch]) -> dict[str, float]:
    loss, right, n_targets = 0.0, 0, 0
    for batch in batches:
        logits_BSV = model(batch.tokens_BS, positions_BS=batch.positions_BS, documents_BS=batch.documents_BS)
        is_scored_BS = batch.targets_BS >= 0
        logits_NV, targets_N = logits_BSV[is_scored_BS], batch.targets_BS[is_scored_BS]
        loss += float(torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum"))
        right += int((logits_NV.argmax(-1) == targets_N).sum())
        n_targets += targets_N.numel()
    if not n_targets:
        raise ValueError(
            "no held-out position is scored: raise sequence_length, so that answers begin within it"
        )
    return {"loss": loss / n_targets, "accuracy": right / n_targets}


def _stored_bytes(model: Transformer) -> int:
    """Bytes of the parameters as a checkpoint stores them: shared ones once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _save(model: Transformer, made: Path) -> None:
    made.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = made / f"{WEIGHTS}.partial"
    save_file(state, partial)
    partial.replace(made / WEIGHTS)
