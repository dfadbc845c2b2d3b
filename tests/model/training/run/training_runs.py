"""Small runs for the training tests: shapes, data in memory and on disk, observers that remember."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from model.config import MoEConfig
from model.data.batches.batch import IGNORED, Batch
from model.data.batches.evaluation import evaluation_batches
from model.data.batches.stream import DataStream
from model.data.build import Settings, build
from model.data.corpora.registry import Corpus
from model.data.corpora.text_documents import TextDocument
from model.presets import PRESETS
from model.training.config.run_config import RunConfig, run_config_from
from model.training.report.events import Event, Stepped
from model.training.run.checkpoints import load
from model.training.run.data import TrainingData
from model.training.run.run import Result, train
from model.transformer import Transformer
from tests.model.data.memory_documents import MemoryDocuments

VOCABULARY = 32
DENSE = replace(PRESETS["tiny"], vocab_size=VOCABULARY, d_model=32, moe=None, d_ff=48, tie_embeddings=True)
MOE = replace(
    PRESETS["tiny"],
    vocab_size=VOCABULARY,
    tie_embeddings=True,
    moe=MoEConfig(d_model=64, d_expert=32, n_experts=8, top_k=2, n_shared=1, bias_balancing=True),
)


def model_of(config: Any = MOE, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(config)


def packed_batch(seed: int = 0, rows: int = 4, length: int = 16, scored: float = 0.8) -> Batch:
    """Two documents a row and padding behind them; a random part of the positions is scored."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    first, second = length // 2, length // 4
    places = [*range(first), *range(second), *[0] * (length - first - second)]
    numbers = [*[0] * first, *[1] * second, *[-1] * (length - first - second)]
    documents = torch.tensor(numbers).expand(rows, length).contiguous()
    targets = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    is_scored = torch.rand(rows, length, generator=generator) < scored
    targets = targets.masked_fill(~is_scored | (documents < 0), IGNORED)
    return Batch(tokens, torch.tensor(places).expand(rows, length).contiguous(), documents, targets)


def run_document(output: Path, **tables: Any) -> dict[str, Any]:
    """A run's file as parsed TOML: a tiny MoE model, 64 positions an update, six steps."""
    document: dict[str, Any] = {
        "output": str(output),
        "seed": 3,
        "model": {
            "preset": "tiny",
            "n_layers": 1,
            "tie_embeddings": True,
            "moe": {"bias_balancing": True, "switch_loss": 0.01},
        },
        "data": {"folder": "not-there", "batch_tokens": 64, "sequence_length": 16, "prefetch": 0},
        "recipe": {"warmup_steps": 2, "learning_rate": 0.01},
        "budget": {"steps": 6},
        "compute": {"precision": "fp32", "threads": 1},
        "evaluation": {"every_steps": 3, "tokens": 64},
        "saving": {"every_steps": 2},
    }
    for name, values in tables.items():
        is_table = isinstance(document.get(name), dict) and isinstance(values, dict)
        document[name] = {**document[name], **values} if is_table else values
    return document


def run_config(output: Path, **tables: Any) -> RunConfig:
    return run_config_from(run_document(output, **tables), name="small")


def documents(n: int, seed: int) -> MemoryDocuments:
    """Sequences in which each token is the one before it plus three; every fifth one has an answer at its end."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, VOCABULARY, (n,), generator=generator).tolist()
    lengths = torch.randint(6, 30, (n,), generator=generator).tolist()
    ids = [
        [(start + 3 * k) % VOCABULARY for k in range(length)]
        for start, length in zip(starts, lengths, strict=True)
    ]
    spans = [((length - 3, length),) if number % 5 == 4 else () for number, length in enumerate(lengths)]
    return MemoryDocuments(ids, tuple(spans))


def data_for(config: RunConfig) -> TrainingData:
    sources = {"general": documents(60, 1), "domain": documents(40, 2), "instruction": documents(20, 3)}
    curriculum = config.curriculum(tuple(sources))
    stream = DataStream(
        sources,
        curriculum,
        batch_tokens=config.data.batch_tokens,
        seed=config.seed,
        window_tokens=256,
    )
    held_out = evaluation_batches(
        documents(12, 4),
        sequence_length=config.data.sequence_length,
        batch_tokens=config.data.batch_tokens,
        max_tokens=config.evaluation.tokens,
    )
    return TrainingData(stream, curriculum, {"general": list(held_out)}, vocabulary=VOCABULARY)


def data_folder(folder: Path, *, word: str = "general") -> Path:
    """A built data folder of a few short texts in three kinds; the general ones repeat `word`."""

    def texts(kind: str) -> list[TextDocument]:
        return [
            TextDocument(
                corpus=kind,
                licence="none",
                path=f"{kind}/{number}",
                origin=f"{kind}/{number}",
                text=f"{number} times {number}?"
                if kind == "instruction"
                else f"{word if kind == 'general' else kind} {number * number}. " * 9,
                answer=f"{number * number}" if kind == "instruction" else None,
            )
            for number in range(40)
        ]

    kinds = ("general", "domain", "instruction")
    corpora = [
        Corpus(kind, kind, "none", "test", "none", lambda kind=kind: iter(texts(kind)))  # type: ignore[arg-type,misc]
        for kind in kinds
    ]
    build(folder, corpora, settings=Settings(vocab_size=300, held_out_share=0.2))
    return folder


def toml(document: dict[str, Any]) -> str:
    """A run's file as text. Values are strings, numbers, booleans, lists of them, and tables."""
    plain = {key: value for key, value in document.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_value(value)}" for key, value in plain.items()]
    for key, value in document.items():
        if isinstance(value, dict):
            lines += _table(key, value)
    return "\n".join(lines) + "\n"


def _table(name: str, table: dict[str, Any]) -> list[str]:
    lines = [f"[{name}]", *(f"{k} = {_value(v)}" for k, v in table.items() if not isinstance(v, dict))]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table(f"{name}.{key}", value)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


@dataclass
class Remembers:
    """An observer with a list of all that it was told."""

    events: list[Event] = field(default_factory=list)
    is_closed: bool = False

    def on(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.is_closed = True

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def same_state(one: Any, other: Any) -> bool:
    """Whether two state dicts are equal in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(events: Sequence[Event]) -> list[float]:
    return [event.loss for event in events if type(event).__name__ == "Stepped"]


class Interrupts(Remembers):
    """Sends this process a signal when a step is done; or raises what it was given."""

    def __init__(self, step: int, what: signal.Signals | Exception) -> None:
        super().__init__()
        self.step, self.what = step, what

    def on(self, event: Event) -> None:
        super().on(event)
        if isinstance(event, Stepped) and event.step == self.step:
            if isinstance(self.what, Exception):
                raise self.what
            os.kill(os.getpid(), self.what)


def run(config: RunConfig, seen: Remembers | None = None, **options: Any) -> tuple[Result, Remembers]:
    seen = seen or Remembers()
    return train(config, data_for(config), observers=[seen], **options), seen


def final_state(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    newest = sorted((output / "checkpoints").iterdir())[-1]
    return load(newest)[0].tensors


def equal_states(one: Path, other: Path) -> bool:
    first, second = final_state(one), final_state(other)
    return first.keys() == second.keys() and all(same_state(first[part], second[part]) for part in first)
