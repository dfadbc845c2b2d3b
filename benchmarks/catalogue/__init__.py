"""The list of suites: names, units, sizes, limits. Without numpy and torch, so that web processes can show it.

How a suite draws, calls and checks is in `benchmarks.suites`. This is the one place of its sizes and limits: the suites,
the pages and the tables of `docs/reference/suites.md` (`python -m benchmarks.catalogue`) all take them from here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.catalogue import decoders, layers, serving, training
from benchmarks.catalogue.decoders import CHECKPOINT_LOAD, DECODE, DECODE_BATCHED, PEAK_MEMORY, PREFILL
from benchmarks.catalogue.facts import (
    GUARD_LOAD_MARGIN_LOG_PPM,
    GUARD_MEMORY_MARGIN_LOG_PPM,
    Case,
    GuardInfo,
    MessageInfo,
    PresetInfo,
    Size,
    SuiteInfo,
    TimeLimits,
    UnknownSuite,
)
from benchmarks.catalogue.layers import MOE_BACKWARD, MOE_FORWARD
from benchmarks.catalogue.serving import MIXED_LOAD
from benchmarks.catalogue.training import QUALITY, TIME_TO_LOSS, TRAIN_STEP

__all__ = [
    "BUG",
    "BUG_ATTEMPTS",
    "CASE_SEPARATOR",
    "CHECKPOINT_LOAD",
    "DECODE",
    "DECODE_BATCHED",
    "GUARD_LOAD_MARGIN_LOG_PPM",
    "GUARD_MEMORY_MARGIN_LOG_PPM",
    "MIXED_LOAD",
    "MOE_BACKWARD",
    "MOE_FORWARD",
    "PEAK_MEMORY",
    "PREFILL",
    "QUALITY",
    "SUITES",
    "TIME_TO_LOSS",
    "TRAIN_STEP",
    "Case",
    "GuardInfo",
    "MessageInfo",
    "PresetInfo",
    "Size",
    "SuiteInfo",
    "TimeLimits",
    "UnknownSuite",
    "guarding_suites",
    "payable_suites",
    "suite_of_case",
]

CASE_SEPARATOR = "/"
BUG_ATTEMPTS = 3

# Nothing is timed: a fix earns its bounty's award for the severity, not a rate. The limits are those of its pairs, in
# which both sides run the candidate.
BUG = SuiteInfo(
    name="bug",
    title="Bug: reproduced, then fixed",
    unit="trials",
    presets=MappingProxyType(
        {
            "standard": PresetInfo(
                "standard",
                f"{BUG_ATTEMPTS} attempts of the reproduction on each tree, then one pair of each case of the suites "
                "that guard others and have exact answers",
            )
        }
    ),
    cap_log_ppm=3_688_880,  # ln 40, as moe_forward
    messages=(),
    caller="",
    sizes=MappingProxyType({}),
)

SUITES: Mapping[str, SuiteInfo] = MappingProxyType(
    {
        suite.name: suite
        for suite in (*layers.SUITES, *training.SUITES, *decoders.SUITES, *serving.SUITES, BUG)
    }
)


def guarding_suites(gained: str, preset: str) -> list[tuple[SuiteInfo, GuardInfo]]:
    """The suites that guard a gain in this one, in the catalogue's order, each with how. A preset for demos has fewer."""
    known = SUITES[gained].presets.get(preset)
    named = None if known is None else known.guards
    return [
        (suite, suite.guard)
        for suite in SUITES.values()
        if suite.guard is not None and suite.name != gained and (named is None or suite.name in named)
    ]


def payable_suites() -> dict[str, SuiteInfo]:
    """The suites that a bounty can pay for: the others only guard."""
    return {name: suite for name, suite in SUITES.items() if suite.presets}


def suite_of_case(case: str) -> str:
    """The suite that a guard run's case belongs to: cases there are named `suite/case`."""
    return case.partition(CASE_SEPARATOR)[0]
