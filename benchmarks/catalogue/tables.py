"""The tables of `docs/reference/suites.md`, made of the catalogue's values."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.catalogue import (
    BUG,
    GUARD_LOAD_MARGIN_LOG_PPM,
    GUARD_MEMORY_MARGIN_LOG_PPM,
    SUITES,
    SuiteInfo,
)
from benchmarks.catalogue.facts import MIB, Size
from benchmarks.statistics.units import PPM, signed_percent

NONE = "-"


def tables() -> list[str]:
    """Sizes, limits, effects, guards and messages, each as Markdown."""
    timed = [info for info in SUITES.values() if info is not BUG]
    return [
        _table(
            ("suite", "preset", "case", "a call or trial", "model"),
            (row for info in timed for row in _sizes(info)),
        ),
        _table(
            ("suite", "preset", "calls a side", "longest load", "longest call", "memory"),
            (row for info in timed for row in _side_limits(info)),
        ),
        _table(
            ("suite", "unit", "minimum effect", "worst case", "cap"),
            (_effects(info) for info in timed),
        ),
        _table(("guard rail", "preset", "margin", "when"), _guards(timed)),
        _table(
            (
                "suite",
                "messages, each sent after the answer to the one before",
                "a caller of the stack knows",
            ),
            (_messages(info) for info in timed),
        ),
    ]


def _sizes(info: SuiteInfo) -> Iterable[Sequence[str]]:
    for preset, size in _shown(info):
        for case in size.cases:
            yield _code(info.name), _code(preset), _code(case.name), case.call, case.model


def _side_limits(info: SuiteInfo) -> Iterable[Sequence[str]]:
    for preset, size in _shown(info):
        calls = f"{size.calls_per_side}"
        if size.most_calls > size.calls_per_side:
            calls += f"-{size.most_calls}"
        limits = size.time_limits
        yield (
            _code(info.name),
            _code(preset),
            calls if size.calls_per_side > 1 else "1 trial",
            f"{limits.load_ms // 1000} s",
            f"{limits.call_ms // 1000} s",
            f"{size.memory_bytes // MIB:,} MiB",
        )


def _shown(info: SuiteInfo) -> Iterable[tuple[str, Size]]:
    """Presets of which the tables have rows: one for demos has the sizes of another, a mere guard has one."""
    names = [preset.name for preset in info.presets.values() if not preset.is_for_demos]
    if not names and info.guard is not None:
        names = [info.guard.preset]
    return ((name, info.sizes[name]) for name in names)


def _effects(info: SuiteInfo) -> Sequence[str]:
    return (
        _code(info.name),
        info.unit,
        _percent(info.minimum_effect_log_ppm),
        signed_percent(info.worst_case_log_ppm),
        f"{math.exp(info.cap_log_ppm / PPM):.3g}x",
    )


def _messages(info: SuiteInfo) -> Sequence[str]:
    return _code(info.name), "; then ".join(message.brings for message in info.messages), info.caller


def _guards(timed: Iterable[SuiteInfo]) -> Iterable[Sequence[str]]:
    for info in timed:
        if info.guard is not None:
            when = "an output differed" if info.guard.only_if_numerics_changed else "always"
            yield _code(info.name), _code(info.guard.preset), _percent(info.guard.margin_log_ppm), when
    yield "peak memory of each case", NONE, _percent(GUARD_MEMORY_MARGIN_LOG_PPM), "always"
    yield "time to load", NONE, _percent(GUARD_LOAD_MARGIN_LOG_PPM), "always"


def _percent(log_ppm: int) -> str:
    """Percent by which base's value is larger at this effect: 9,951 is 1 %."""
    return f"{100 * math.expm1(log_ppm / PPM):.2g} %"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
