"""Shapes, limits and texts of suites as plain values: nothing here imports numpy or torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MIB = 1024 * 1024
GUARD_TIME_MARGIN_LOG_PPM = 29_558  # ln 1.03
GUARD_MEMORY_MARGIN_LOG_PPM = 19_802  # ln 1.02: peak memory hardly varies from run to run
GUARD_LOAD_MARGIN_LOG_PPM = 95_310  # ln 1.10, of starting and loading: a tenth of a second
Dimensions = Mapping[str, tuple[int, ...]]


class UnknownSuite(ValueError):
    """No suite, or no preset of the suite, has this name."""


@dataclass(frozen=True)
class Case:
    """A declared family of shapes: every dimension is drawn secretly from its choices, again for each pair.

    A control pair takes the shape of the measured pair next to it, so that base's times can be compared.
    """

    name: str
    dimensions: Dimensions
    call: str  # the size of one call or trial in words, made of `dimensions`
    model: str  # ... and of what it is a call of

    def draw(self, rng: np.random.Generator) -> dict[str, int]:
        return {name: int(rng.choice(choices)) for name, choices in self.dimensions.items()}


@dataclass(frozen=True)
class TimeLimits:
    """Wall-clock limits of one side, in milliseconds; what takes longer is a timeout."""

    start_ms: int  # sandbox, interpreter and torch
    load_ms: int  # importing the stack and taking the weights
    call_ms: int  # one call


# The limits of a preset where a suite has none for itself.
TIME_LIMITS = {
    "tiny": TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=5_000),
    "demo": TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=10_000),
    "standard": TimeLimits(start_ms=60_000, load_ms=60_000, call_ms=30_000),
}


@dataclass(frozen=True)
class Size:
    """Sizes of a suite in one preset: the shapes, the calls, and how much a side may use."""

    cases: tuple[Case, ...]
    calls_per_side: int  # timed calls of each side in one pair; 1 for a trial, whose value counts as one
    time_limits: TimeLimits
    memory_bytes: int
    # Where above `calls_per_side`: a pair may have up to so many, as the machine's speed asks; in a guard it has so many.
    most_calls: int = 0

    @property
    def text(self) -> str:
        """The cases in words; those of the same model together."""
        calls: dict[str, list[str]] = {}
        for case in self.cases:
            calls.setdefault(case.model, []).append(case.call)
        what = "call" if self.calls_per_side > 1 else "trial"
        return f"Each {what}: " + "; or ".join(
            f"{', or '.join(each)} ({model})" for model, each in calls.items()
        )


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """One size of a suite. `guards` names the suites that guard its gains, None for every suite that guards others.

    A preset with fewer guards than that is for demo lineages only, whose trees no one serves.
    """

    name: str
    description: str
    guards: tuple[str, ...] | None = None

    @property
    def is_for_demos(self) -> bool:
        return self.guards is not None


@dataclass(frozen=True, slots=True)
class GuardInfo:
    """Terms on which a suite guards gains in others: the preset, and how much worse it may become (log_ppm, above zero)."""

    preset: str
    margin_log_ppm: int
    only_if_numerics_changed: bool = False  # skipped while all outputs are equal to the bit


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """One message to a sample: the names of its tensors, and what they are in words.

    A message is sent after the answer to the one before it. It holds what a caller of the real stack knows at that
    moment and nothing else.
    """

    inputs: tuple[str, ...]
    brings: str


TIME_GUARD = GuardInfo("demo", margin_log_ppm=GUARD_TIME_MARGIN_LOG_PPM)


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """All facts of a suite that are known without running it.

    A suite's values are in `unit`, of which less is better. All effects are ln(base's value / candidate's) in millionths
    of a nat (`log_ppm`): `minimum_effect_log_ppm` is the smallest estimate that passes the gate; `cap_log_ppm` is the
    largest one that is accepted without a maintainer; `worst_case_log_ppm` (negative) is how much slower any single case
    may be.
    """

    name: str
    title: str
    unit: str
    presets: Mapping[str, PresetInfo]  # those that a bounty can have
    sizes: Mapping[str, Size]  # by preset, with `tiny`, which is for tests
    cap_log_ppm: int
    messages: tuple[MessageInfo, ...]  # of a call or trial, in order; empty where nothing is called
    caller: str  # what a caller of the real stack knows when it calls, and what it does not
    minimum_effect_log_ppm: int = 9_951  # ln 1.01, rounded up
    worst_case_log_ppm: int = -51_293  # ln 0.95
    needs_peak_counter: bool = False  # awards only where the kernel counted peaks of memory
    guard: GuardInfo | None = None  # None: it does not guard other suites' gains
    lines: tuple[str, ...] = ()  # of a bill that it measures, as `benchmarks.canary.order` names them
    parts: tuple[
        str, ...
    ] = ()  # lines of which it measures a part; with no line and no part there is no royalty

    def size(self, preset: str) -> Size:
        """The sizes of a preset; raises UnknownSuite with the presets that exist."""
        if preset not in self.sizes:
            raise UnknownSuite(
                f"{self.name} has no preset {preset!r}; presets: {', '.join(sorted(self.sizes))}"
            )
        return self.sizes[preset]


def dimensions(**choices: int | tuple[int, ...]) -> Dimensions:
    """The dimensions of a family, in the order in which they are drawn; one number is the only choice."""
    return {name: (value,) if isinstance(value, int) else value for name, value in choices.items()}


def around(middle: int, spread: int) -> tuple[int, ...]:
    """All whole numbers that are at most `spread` away from `middle`."""
    return tuple(range(middle - spread, middle + spread + 1))


def spread(longest: int, count: int) -> list[int]:
    """`count` lengths from half of `longest` up to it."""
    if count == 1:
        return [longest]
    return [longest // 2 + (longest - longest // 2) * place // (count - 1) for place in range(count)]


def span(values: Iterable[int]) -> str:
    """The least and the largest of some whole numbers as people read them: `480-544`, or `8`."""
    known = list(values)
    least, most = min(known), max(known)
    return f"{least:,}" if least == most else f"{least:,}-{most:,}"


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 probe`, `8 sequences`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def sizes(
    cases: Mapping[str, tuple[Case, ...]],
    calls_per_side: Mapping[str, int],
    memory_mib: Mapping[str, int],
    *,
    time_limits: Mapping[str, TimeLimits] = TIME_LIMITS,
    most_calls: Mapping[str, int] = MappingProxyType({}),
) -> Mapping[str, Size]:
    """The sizes of all presets."""
    return MappingProxyType(
        {
            preset: Size(
                cases[preset],
                calls_per_side[preset],
                time_limits[preset],
                memory_mib[preset] * MIB,
                most_calls.get(preset, 0),
            )
            for preset in cases
        }
    )


def with_tour(presets: Mapping[str, PresetInfo], *, guards: tuple[str, ...]) -> Mapping[str, PresetInfo]:
    """The presets and `tour`: the sizes of demo in shorter pairs, for demo lineages, guarded by these suites only."""
    text = f"The sizes of demo in shorter pairs, guarded by {' and '.join(guards)} only; for demo lineages"
    tour = PresetInfo("tour", text, guards=guards)
    return MappingProxyType({"demo": presets["demo"], "tour": tour, "standard": presets["standard"]})


def presets_of(sizes: Mapping[str, Size]) -> Mapping[str, PresetInfo]:
    """The presets that a bounty can have, each described by its sizes."""
    return MappingProxyType({name: PresetInfo(name, sizes[name].text) for name in ("demo", "standard")})
