"""Data of one run: its stream of batches, its held-out batches, and the tokenizer's files for its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.config import ConfigError
from model.data.arrow.data_folder import DataFolder, open_data_folder
from model.data.batches.batch import Batch
from model.data.batches.curriculum import Curriculum
from model.data.batches.evaluation import evaluation_batches
from model.data.batches.prefetch import PrefetchedStream
from model.data.batches.stream import WINDOW_TOKENS, BatchStream, DataStream
from model.training.config.run_config import RunConfig
from model.training.run.serving_files import serving_files


@dataclass(frozen=True)
class TrainingData:
    """Data of a run. `held_out` batches by kind; `vocabulary` is the number of the tokenizer's tokens."""

    stream: BatchStream
    curriculum: Curriculum
    held_out: Mapping[str, Sequence[Batch]]
    vocabulary: int
    files: Mapping[str, str] = field(default_factory=dict)  # for the model's folder
    stop_tokens: Sequence[int] = ()


def open_data(config: RunConfig, *, pin: bool = False) -> TrainingData:
    """Opens the data folder; batches are in page-locked memory where `pin` is set.

    Raises DataError for missing, unfinished or damaged data and ConfigError where the configuration does not fit it.
    """
    folder = open_data_folder(config.data.folder)
    sources = folder.sources("train")
    if not sources:
        raise ConfigError(
            f"[data] folder {folder.path} has no documents to train on: build it with a smaller --held-out"
        )
    curriculum = config.curriculum(tuple(sources))
    missing = sorted(curriculum.sources - set(sources))
    if missing:
        raise ConfigError(
            f"[curriculum] draws from {', '.join(missing)}, but {folder.path} has {', '.join(sources) or 'nothing'}: "
            "build it with those corpora or change the plan"
        )
    stream: BatchStream = DataStream(
        sources,
        curriculum,
        batch_tokens=config.data.batch_tokens,
        seed=config.seed,
        layout=config.data.layout,
        window_tokens=max(WINDOW_TOKENS, config.data.batch_tokens),
    )
    if config.data.prefetch:
        stream = PrefetchedStream(stream, depth=config.data.prefetch, pin=pin)
    serving = serving_files(folder.tokenizer)
    return TrainingData(
        stream=stream,
        curriculum=curriculum,
        held_out=_held_out(folder, config),
        vocabulary=folder.tokenizer.vocab_size,
        files=serving.files,
        stop_tokens=serving.stop_tokens,
    )


def _held_out(folder: DataFolder, config: RunConfig) -> dict[str, list[Batch]]:
    """Held-out batches by kind. Raises ConfigError where a kind has no position to score."""
    if not config.evaluation.every_steps:
        return {}
    batches = {
        kind: list(
            evaluation_batches(
                documents,
                sequence_length=config.data.sequence_length,
                batch_tokens=max(
                    config.data.batch_tokens // config.compute.micro_batches, config.data.sequence_length
                ),
                max_tokens=config.evaluation.tokens,
                is_packed=config.data.layout == "packed",
            )
        )
        for kind, documents in folder.sources("held_out").items()
    }
    for kind, own in batches.items():
        if not any(batch.n_targets for batch in own):
            raise ConfigError(
                f"[evaluation] scores no position of the held-out {kind} documents: raise [evaluation] tokens or [data] "
                "sequence_length, or turn evaluation off with every_steps = 0"
            )
    return batches
