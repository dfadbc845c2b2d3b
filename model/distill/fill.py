"""Fill the cache that a run's file names with a teacher's outputs on all data that the run trains on.

The batches are the run's own, so that the cache has every piece that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import ConfigError
from model.data.batches.batch import Batch
from model.data.tokenizer import TOKENIZER_FILE
from model.distill.cache import CachedTeacher
from model.distill.errors import IncompatibleError
from model.distill.identity import require_same_tokens, tokenizer_sha256
from model.distill.precompute import precompute
from model.distill.teacher import LiveTeacher
from model.training.config.run_config import RunConfig
from model.training.losses.distillation import live_teacher
from model.training.optim.precision import Precision, autocast
from model.training.run.data import TrainingData, open_data
from model.training.run.micro_batches import split
from model.training.run.setup import device_of, precision_for, shape_for

Report = Callable[[int, int], None]  # tokens in the cache, approximate total


@dataclass(frozen=True)
class Filled:
    """Result: `n_computed` tokens computed now, `n_known` cached before; `n_tokens` and `n_bytes` of the whole cache."""

    folder: Path
    precision: Precision  # in which the teacher computed
    n_computed: int
    n_known: int
    n_tokens: int
    n_bytes: int


def fill(
    config: RunConfig, teacher: Path, *, k: int = 32, steps: int | None = None, report: Report
) -> Filled:
    """Compute the outputs of the model in `teacher` for the first `steps` steps of the run, or all of its budget.

    The teacher runs on the run's device, in its precision and micro-batches. Where the run's file leaves the precision
    open, that is the one which a new run would choose now. Raises ConfigError and IncompatibleError where run, teacher
    and k do not go together, CheckpointError for a folder without a model, DataError for data and CacheError for a
    cache that cannot be used, and OSError; finished shards stay in any case.
    """
    folder, temperature = _cache_of(config)
    total = _tokens(config, steps)
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    device = device_of(config)
    precision = precision_for(config, device).precision
    data = open_data(config)
    with data.stream, autocast(precision, device):
        live = _teacher(config, data, teacher, device, precision)
        if k > live.vocab_size:
            raise ConfigError(
                f"k is {k}, but the teacher has {live.vocab_size} tokens: choose at most as many"
            )
        done = precompute(
            folder,
            live,
            _batches(config, data, steps),
            k=k,
            temperature=temperature,
            report=lambda computed, known: report(computed + known, total),
        )
    cache = CachedTeacher.open(folder)
    return Filled(folder, precision, done.n_computed, done.n_known, cache.n_tokens, cache.n_bytes)


def _cache_of(config: RunConfig) -> tuple[Path, float]:
    if config.distillation is None or config.distillation.cache is None:
        raise ConfigError(
            "the run's file names no cache to fill: set cache, a folder, in its table [distillation]"
        )
    return config.distillation.cache, config.distillation.temperature


def _tokens(config: RunConfig, steps: int | None) -> int:
    """Number of tokens of all batches, padding included if steps end the run first."""
    budget = config.budget
    counted = [n * config.data.batch_tokens for n in (steps, budget.steps) if n is not None]
    if budget.tokens is not None:
        counted.append(budget.tokens)
    if not counted:
        raise ConfigError("[budget] has seconds only, so the number of steps is unknown: give --steps")
    return min(counted)


def _teacher(
    config: RunConfig, data: TrainingData, folder: Path, device: torch.device, precision: Precision
) -> LiveTeacher:
    teacher = live_teacher(folder, device, precision)
    model = teacher.model
    require_same_tokens(
        student_vocabulary=shape_for(config, data.vocabulary).vocab_size,
        student_tokenizer=tokenizer_sha256(data.files[TOKENIZER_FILE]),
        teacher_vocabulary=model.config.vocab_size,
        teacher_tokenizer=teacher.tokenizer,
    )
    longest = max(segment.sequence_length for segment in data.curriculum.segments)
    if longest > model.config.max_context:
        raise IncompatibleError(
            f"the run has sequences of {longest} tokens and the teacher a max_context of {model.config.max_context}: "
            "shorten the run's"
        )
    return teacher


def _batches(config: RunConfig, data: TrainingData, steps: int | None) -> Iterator[Batch]:
    """The batches of the run up to its budget, in its micro-batches."""
    step = 0
    while (
        step != steps and config.budget.share_done(steps=step, tokens=data.stream.tokens_seen, seconds=0) < 1
    ):
        yield from split(next(data.stream), config.compute.micro_batches)
        step += 1
