"""Curriculum: data mixture, sequence length and loss mask as pure functions of the tokens seen. Does not import torch.

The three-stage curriculum trains on general text, then on domain text, then on instructions, 40 : 10 : 1 in tokens,
each later stage with some of the earlier ones' data so that it is not forgotten. `one_mixture` is its baseline: as many
tokens of each source, all mixed from the start. The sequence length may warm up (Li et al. 2021, The
Stability-Efficiency Dilemma, arXiv:2108.06084).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from model.config import ConfigError

Mask = Literal["all", "answers"]

STAGE_SHARES = {"general": 40.0, "domain": 10.0, "instruction": 1.0}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True)
class Stage:
    """One stage of training. `mixture` weighs sources by tokens; weights need not sum to one."""

    name: str
    share: float  # of all tokens, relative to the other stages' shares
    mixture: Mapping[str, float]
    sequence_length: int
    mask: Mask = "answers"  # which tokens of documents with answers are scored; others are scored everywhere
    learning_rate: tuple[float, float] = (
        1.0,
        1.0,
    )  # factors on the recipe's, at start and end; linear between

    def __post_init__(self) -> None:
        _require(self.share > 0, f"Stage.share of {self.name} must be above 0")
        _require(self.sequence_length >= 2, f"Stage.sequence_length of {self.name} must be at least 2")
        _require(self.mask in get_args(Mask), f"Stage.mask of {self.name} must be one of all, answers")
        weights = list(self.mixture.values())
        positive = bool(weights) and all(weight >= 0 for weight in weights) and sum(weights) > 0
        _require(positive, f"Stage.mixture of {self.name} needs a weight above 0 and none below")
        factors = len(self.learning_rate) == 2 and all(factor >= 0 for factor in self.learning_rate)
        _require(factors, f"Stage.learning_rate of {self.name} must be two factors, none negative")


@dataclass(frozen=True)
class LengthWarmup:
    """Sequences grow from `start` tokens to the stage's length over the first `tokens` tokens of training.

    The length is held for an equal number of tokens on each of `steps` steps; above `start` it is rounded down to a
    multiple of `multiple`.
    """

    start: int
    tokens: int
    steps: int = 4
    multiple: int = 8

    def __post_init__(self) -> None:
        for field in ("tokens", "steps", "multiple"):
            _require(getattr(self, field) >= 1, f"LengthWarmup.{field} must be at least 1")
        _require(self.start >= 2, "LengthWarmup.start must be at least 2 tokens")

    def lengths(self, full: int) -> list[int]:
        """Length of each step; the full length follows the last one."""
        grown = [self.start + (full - self.start) * step / self.steps for step in range(self.steps)]
        rounded = [int(length) // self.multiple * self.multiple for length in grown]
        return [min(max(length, self.start), full) for length in rounded]


@dataclass(frozen=True)
class Segment:
    """Tokens start..end - 1 of training, which have one stage and one sequence length. The last one is endless."""

    number: int
    stage: int
    start: int
    end: int | None
    sequence_length: int


@dataclass(frozen=True)
class Moment:
    """State of the curriculum at one point of training."""

    stage: Stage
    segment: Segment
    learning_rate_scale: float

    @property
    def sequence_length(self) -> int:
        return self.segment.sequence_length


@dataclass(frozen=True)
class Curriculum:
    """Stages over `total_tokens` tokens of training; the last one continues if training does."""

    stages: tuple[Stage, ...]
    total_tokens: int
    warmup: LengthWarmup | None = None

    def __post_init__(self) -> None:
        _require(bool(self.stages), "Curriculum.stages needs at least one stage")
        names = [stage.name for stage in self.stages]
        _require(len(set(names)) == len(names), "Curriculum.stages must have different names")
        for stage, start, end in self.spans:
            _require(end > start, f"Curriculum.total_tokens is too small: {stage.name} would get no token")
        if self.warmup is not None:
            first, _, end = self.spans[0]
            short = self.warmup.start <= first.sequence_length
            _require(short, f"LengthWarmup.start must not exceed the first stage's {first.sequence_length}")
            _require(
                self.warmup.tokens <= end, f"LengthWarmup.tokens must not exceed the first stage's {end}"
            )

    @property
    def sources(self) -> frozenset[str]:
        """Sources that some stage draws from."""
        mixtures = [stage.mixture for stage in self.stages]
        return frozenset(name for mixture in mixtures for name, weight in mixture.items() if weight > 0)

    @cached_property
    def spans(self) -> tuple[tuple[Stage, int, int], ...]:
        """Each stage with the tokens seen at its start and its end; the last end is `total_tokens`."""
        shares = [stage.share for stage in self.stages]
        parts = [sum(shares[:index]) / sum(shares) for index in range(len(shares) + 1)]
        cuts = [round(self.total_tokens * part) for part in parts]
        return tuple(zip(self.stages, cuts[:-1], cuts[1:], strict=True))

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of one stage and one sequence length, in order and without gaps."""
        cuts: list[tuple[int, int, int]] = []  # start, stage, sequence length
        for index, (stage, start, _) in enumerate(self.spans):
            if index == 0 and self.warmup is not None:
                for step, length in enumerate(self.warmup.lengths(stage.sequence_length)):
                    cuts.append((self.warmup.tokens * step // self.warmup.steps, 0, length))
                start = self.warmup.tokens
            cuts.append((start, index, stage.sequence_length))
        ends = [cut[0] for cut in cuts[1:]] + [None]
        kept = [(cut, end) for cut, end in zip(cuts, ends, strict=True) if end is None or end > cut[0]]
        return tuple(
            Segment(number, stage, start, end, length)
            for number, ((start, stage, length), end) in enumerate(kept)
        )

    def at(self, tokens: int) -> Moment:
        """The state after `tokens` tokens. Raises ValueError for a negative number."""
        if tokens < 0:
            raise ValueError("the number of tokens seen must not be negative")
        segment = self.segments[bisect.bisect([part.start for part in self.segments], tokens) - 1]
        stage, start, end = self.spans[segment.stage]
        progress = min(1.0, (tokens - start) / (end - start))
        first, last = stage.learning_rate
        return Moment(stage, segment, first + (last - first) * progress)

    def source_tokens(self) -> dict[str, float]:
        """Number of tokens from each source over the whole training."""
        tokens = dict.fromkeys(sorted(self.sources), 0.0)
        for stage, start, end in self.spans:
            for name, weight in stage.mixture.items():
                if weight > 0:
                    tokens[name] += (end - start) * weight / sum(stage.mixture.values())
        return tokens

    def to_dict(self) -> dict[str, Any]:
        return asdict(replace(self, stages=tuple(replace(s, mixture=dict(s.mixture)) for s in self.stages)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curriculum:
        """The inverse of `to_dict`, also through JSON. Raises ConfigError for unknown or missing fields."""
        try:
            stages = tuple(
                Stage(**{**stage, "learning_rate": tuple(stage.get("learning_rate", (1.0, 1.0)))})
                for stage in values["stages"]
            )
            warmup = values.get("warmup")
            rest = {name: value for name, value in values.items() if name not in ("stages", "warmup")}
            return cls(stages=stages, warmup=None if warmup is None else LengthWarmup(**warmup), **rest)
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"not a curriculum: {error}") from error


def three_stages(
    total_tokens: int,
    sequence_length: int,
    *,
    replay: float = 0.1,
    shares: Mapping[str, float] | None = None,
    warmup: LengthWarmup | None = None,
) -> Curriculum:
    """General, then domain, then instruction data, 40 : 10 : 1 in tokens unless `shares` says otherwise.

    `replay` is the share of a later stage's tokens that come from the earlier stages' sources. The learning rate stays
    in the first stage and falls to a tenth over the other two, where the data that the model is for comes last.
    """
    _require(0 <= replay < 1, "replay must be at least 0 and below 1")
    given = dict(STAGE_SHARES if shares is None else shares)
    _require(set(given) == set(STAGE_SHARES), "shares need exactly general, domain and instruction")
    later = given["domain"] + given["instruction"]
    middle = 1 - 0.9 * given["domain"] / later
    rates = {"general": (1.0, 1.0), "domain": (1.0, middle), "instruction": (middle, 0.1)}
    mixtures: dict[str, dict[str, float]] = {
        "general": {"general": 1.0},
        "domain": {"general": replay, "domain": 1 - replay},
        "instruction": {"general": replay / 2, "domain": replay / 2, "instruction": 1 - replay},
    }
    stages = tuple(
        Stage(name, given[name], mixtures[name], sequence_length, learning_rate=rates[name])
        for name in STAGE_SHARES
    )
    return Curriculum(stages, total_tokens, warmup)


def one_mixture(curriculum: Curriculum) -> Curriculum:
    """The baseline of `curriculum`: as many tokens of every source, all mixed evenly from the first to the last.

    Lengths, masks and learning rates stay the same, so that only the order of the data differs.
    """
    mixture = curriculum.source_tokens()
    stages = tuple(replace(stage, mixture=mixture) for stage in curriculum.stages)
    return replace(curriculum, stages=stages)
