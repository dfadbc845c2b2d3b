"""Configuration of one training run, read from a TOML file. Does not import torch.

Paths are relative to the folder that the command is started in. docs/reference/training.md describes every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from model.config import ConfigError
from model.data.batches.curriculum import Curriculum
from model.parallel.mesh.mesh import Mesh, MeshError, check_schedule, check_sequence, check_zero
from model.training.config.curriculum_table import CURRICULUM_KEYS, curriculum_from_table, listed_lengths
from model.training.config.model_table import ModelTable
from model.training.config.recipe import Recipe
from model.training.config.tables import convert, read_table, require_known
from model.training.config.temperature import require_temperature

T = TypeVar("T")
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
CheckpointingName = Literal["none", "full", "selective"]
EightBitName = Literal["none", "int8", "fp8"]
MOST_THREADS = 1024  # OpenMP ends the process without a message when it cannot start a thread
TABLES = (
    "model",
    "data",
    "curriculum",
    "recipe",
    "distillation",
    "budget",
    "compute",
    "parallel",
    "evaluation",
    "saving",
)


@dataclass(frozen=True)
class DataConfig:
    """Source of the batches: a folder that `python -m model.data build` made."""

    folder: Path
    batch_tokens: int  # positions of one update, padding included
    sequence_length: int = 512  # of curricula that do not say otherwise
    layout: Literal["packed", "bucketed"] = "packed"
    prefetch: int = 2  # batches that are prepared in advance; 0 prepares each when it is needed

    def __post_init__(self) -> None:
        _at_least("data", self, batch_tokens=2, sequence_length=2, prefetch=0)


@dataclass(frozen=True)
class Budget:
    """End of training: the first of these that is reached."""

    tokens: int | None = None
    steps: int | None = None
    seconds: float | None = None  # spent in training, without evaluation and saving

    def __post_init__(self) -> None:
        given = [value for value in (self.tokens, self.steps, self.seconds) if value is not None]
        if not given:
            raise ConfigError("[budget] needs tokens, steps or seconds")
        if min(given) <= 0:
            raise ConfigError("[budget] must be above 0")

    def share_done(self, *, steps: int, tokens: int, seconds: float) -> float:
        """Share of the budget that is nearest to its end; at least 1 when training is done."""
        limits = ((steps, self.steps), (tokens, self.tokens), (seconds, self.seconds))
        return max(spent / limit for spent, limit in limits if limit is not None)


@dataclass(frozen=True)
class DistillationConfig:
    """A teacher whose output distribution is learnt in addition to the targets (Hinton et al. 2015, arXiv:1503.02531)."""

    teacher: Path | None = None  # a model folder over the same tokens, which runs while the student trains
    cache: Path | None = None  # or a cache of its outputs, as model.distill.precompute writes it
    temperature: float = 2.0
    weight: float = 0.5  # of the teacher; the targets have the rest
    hidden_weight: float = 0.0  # of the loss on hidden states, added to both; 0: none
    layer_map: tuple[tuple[int, int], ...] | None = None  # student's layer, teacher's; None: evenly

    def __post_init__(self) -> None:
        if (self.teacher is None) == (self.cache is None):
            raise ConfigError(
                "[distillation] needs either teacher, a model folder, or cache, a folder of its outputs"
            )
        if not 0 < self.weight <= 1:
            raise ConfigError(
                "[distillation] weight must be above 0 and at most 1: without a teacher leave it out"
            )
        with _said_of("[distillation]"):
            require_temperature(self.temperature)
        self._check_hidden()

    def _check_hidden(self) -> None:
        """Raises ConfigError for hidden states that cannot be compared, and for layers that would not be."""
        if self.hidden_weight < 0:
            raise ConfigError("[distillation] hidden_weight must not be negative")
        if self.hidden_weight and self.cache is not None:
            raise ConfigError(
                "[distillation] hidden_weight needs teacher, a model folder: a cache holds no hidden states"
            )
        if self.layer_map is None:
            return
        if not self.hidden_weight:
            raise ConfigError(
                "[distillation] layer_map is read with hidden_weight only: give it, or leave both out"
            )
        students = [student for student, _ in self.layer_map]
        if (
            not students
            or len(set(students)) < len(students)
            or min(min(pair) for pair in self.layer_map) < 0
        ):
            raise ConfigError(
                "[distillation] layer_map must be pairs of layers counted from 0, the student's first and each of "
                "its layers once: [[0, 1], [2, 5]]"
            )


@dataclass(frozen=True)
class ComputeConfig:
    """Device, number formats and execution of the model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: PrecisionName = "auto"  # by measured rates: model/training/optim/precision_choice.py
    eight_bit: EightBitName = "none"  # the blocks' matrix products in 8 bits, see docs/concepts/eight-bit.md
    checkpointing: CheckpointingName = "none"
    micro_batches: int = 1  # of one update, computed one after the other
    compile: bool = False  # torch.compile of each block
    threads: int | None = None  # None: torch's own choice

    def __post_init__(self) -> None:
        _at_least("compute", self, micro_batches=1)
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"[compute] threads must be at least 1 and at most {MOST_THREADS}")


@dataclass(frozen=True)
class ParallelConfig:
    """The processes on this machine that train together; docs/concepts/parallel.md says what each axis splits."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1  # of the dp, with etp = 1 of the dp and tp
    etp: int | None = None  # processes that split an expert's width: None: tp; 1: experts are whole
    chunks: int = 1  # pipeline stages of each process, interleaved
    sequence: bool = False  # the stream between split modules is split over tp by positions
    shard_states: bool = True  # the optimiser's, over dp (ZeRO 1)
    zero: int | None = None  # 1, 2 or 3: DeepSpeed trains, and shards states, gradients too, weights too
    offload: bool = False  # DeepSpeed keeps the optimiser's states in the host's memory
    timeout_s: float = 600.0  # that one process waits for another before the run ends

    def __post_init__(self) -> None:
        _at_least("parallel", self, chunks=1, timeout_s=1)
        if self.mesh.world_size == 1:
            raise ConfigError("[parallel] is a single process: raise dp, tp or pp, or leave the table out")
        if self.zero is not None:
            self._check_zero(self.zero)
        elif self.offload:
            raise ConfigError("[parallel] offload is DeepSpeed's: give zero = 1, 2 or 3 as well")
        if self.sequence:
            self._check_sequence()

    @property
    def mesh(self) -> Mesh:
        """Raises ConfigError where there is no such mesh."""
        with _said_of("[parallel]"):
            return Mesh(dp=self.dp, tp=self.tp, pp=self.pp, ep=self.ep, etp=self.etp)

    def _check_sequence(self) -> None:
        if self.zero is not None:
            raise ConfigError(
                "[parallel] sequence splits rows over tp, which DeepSpeed is not given: leave sequence or zero out"
            )
        mesh = self.mesh
        with _said_of("[parallel] sequence:"):
            check_sequence(mesh)

    def _check_zero(self, stage: int) -> None:
        if stage == 0:
            raise ConfigError("[parallel] zero is 1, 2 or 3: leave it out to train without DeepSpeed")
        if not self.shard_states:
            raise ConfigError(
                "[parallel] zero shards the optimiser's states at each stage: leave shard_states out"
            )
        mesh = self.mesh
        with _said_of("[parallel]"):
            check_zero(mesh, stage, offload=self.offload)


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss."""

    every_steps: int = 100  # and at the end; 0: never
    tokens: int = 32_768  # of each kind of documents, the same ones each time

    def __post_init__(self) -> None:
        _at_least("evaluation", self, every_steps=0, tokens=1)


@dataclass(frozen=True)
class SavingConfig:
    """Checkpoints for resuming."""

    every_steps: int = 200  # and at the end; 0: only there
    keep: int = 2  # the newest ones

    def __post_init__(self) -> None:
        _at_least("saving", self, every_steps=0, keep=1)


@dataclass(frozen=True)
class RunConfig:
    """One run. `output` is the folder for checkpoints, log, curves and the trained model."""

    name: str
    output: Path
    model: ModelTable
    data: DataConfig
    budget: Budget
    curriculum_table: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    distillation: DistillationConfig | None = None
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    parallel: ParallelConfig | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.moments and self.recipe.optimizer == "muon":
            raise ConfigError(
                "[model] moments are AdamW's: leave them out, or choose [recipe] optimizer adamw"
            )
        if self.parallel is not None:
            _check_parallel(self, self.parallel)

    def curriculum(self, sources: tuple[str, ...]) -> Curriculum:
        """The curriculum over the run's tokens, from the data folder's sources. Raises ConfigError."""
        return curriculum_from_table(
            self.curriculum_table,
            total_tokens=self._tokens(),
            sequence_length=self.data.sequence_length,
            sources=sources,
        )

    @property
    def longest_sequence(self) -> tuple[str, int]:
        """The longest sequence of training or evaluation: its key and its length. Raises ConfigError."""
        lengths = {"[data] sequence_length": self.data.sequence_length}
        if listed := listed_lengths(self.curriculum_table):
            lengths["[[curriculum.stages]] sequence_length"] = max(listed)
        return max(lengths.items(), key=lambda item: item[1])

    def _tokens(self) -> int | None:
        """Tokens of the whole run: the budget's, or those of as many full batches as it has steps."""
        if self.budget.tokens is not None or self.budget.steps is None:
            return self.budget.tokens
        return self.budget.steps * self.data.batch_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for logs and checkpoints."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def read_run_config(file: Path) -> RunConfig:
    """Raises ConfigError with the file's name for anything in it that is not right, OSError where it cannot be read."""
    try:
        with file.open("rb") as opened:
            document = tomllib.load(opened)
        return run_config_from(document, name=file.stem)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not TOML: it is not in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def run_config_from(document: Mapping[str, Any], *, name: str) -> RunConfig:
    """The run that a TOML document describes; `name` if it sets none. Raises ConfigError."""
    require_known(document, ("name", "output", "seed", *TABLES), "the file")
    for required in ("output", "model", "data", "budget"):
        if required not in document:
            raise ConfigError(f"the file needs {required!r}: docs/reference/training.md describes every key")
    table = document.get("curriculum", {})
    if not isinstance(table, Mapping):
        raise ConfigError("[curriculum] must be a table")
    require_known(table, CURRICULUM_KEYS, "[curriculum]")
    name = convert(str, document.get("name", name), "name")
    return RunConfig(
        name=name,
        output=convert(Path, document["output"], "output"),
        model=ModelTable.read(document["model"], name=name),
        data=read_table(DataConfig, document["data"], "[data]"),
        budget=read_table(Budget, document["budget"], "[budget]"),
        curriculum_table=dict(table),
        recipe=read_table(Recipe, document.get("recipe", {}), "[recipe]"),
        distillation=_optional(DistillationConfig, document, "distillation"),
        compute=read_table(ComputeConfig, document.get("compute", {}), "[compute]"),
        parallel=_optional(ParallelConfig, document, "parallel"),
        evaluation=read_table(EvaluationConfig, document.get("evaluation", {}), "[evaluation]"),
        saving=read_table(SavingConfig, document.get("saving", {}), "[saving]"),
        seed=convert(int, document.get("seed", 0), "seed"),
    )


def _optional(kind: type[T], document: Mapping[str, Any], name: str) -> T | None:
    return read_table(kind, document[name], f"[{name}]") if name in document else None


def _check_parallel(config: RunConfig, parallel: ParallelConfig) -> None:
    """Raises ConfigError for what several processes cannot do, or not do together."""
    compute, recipe = config.compute, config.recipe
    single = {
        "[compute] precision 'fp16'": compute.precision == "fp16",
        "[compute] eight_bit": compute.eight_bit != "none",
        "[compute] compile": compute.compile,
        f"[recipe] optimizer {recipe.optimizer!r}": recipe.optimizer != "adamw",
        "[recipe] ema_decay": recipe.ema_decay is not None,
        "[distillation]": config.distillation is not None,
        "[model] moments": config.model.moments,
    }
    for what, is_wanted in single.items():
        if is_wanted:
            raise ConfigError(f"[parallel] does not go with {what}: leave one of them out")
    mesh = parallel.mesh
    with _said_of("[parallel] with [compute]:"):
        check_schedule(mesh, n_micro_batches=compute.micro_batches, n_chunks=parallel.chunks)


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Prefix ConfigErrors with the part of the file that they are about."""
    try:
        yield
    except (ConfigError, MeshError) as error:
        raise ConfigError(f"{where} {error}") from error


def _at_least(table: str, config: object, **lowest: int) -> None:
    for name, low in lowest.items():
        if getattr(config, name) < low:
            raise ConfigError(f"[{table}] {name} must be at least {low}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
