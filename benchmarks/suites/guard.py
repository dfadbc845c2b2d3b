"""The guard suite: what a gain in one suite must not cost elsewhere. Made of the other suites, in their quick presets.

Its cases are theirs, under "suite/case", each with the margin by which it may be worse. What is concluded is in
`benchmarks.evidence.guard`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.catalogue import (
    CASE_SEPARATOR,
    GUARD_LOAD_MARGIN_LOG_PPM,
    GUARD_MEMORY_MARGIN_LOG_PPM,
    suite_of_case,
)
from benchmarks.suites.base import Problem, Suite


@dataclass(frozen=True)
class GuardSuite(Suite):
    """The parts by suite name. Name, unit and limits are those of the suite in which the gain was found."""

    parts: MappingProxyType[str, Suite]

    @property
    def sample_module(self) -> Path:
        raise TypeError("a guard suite is measured by its parts")

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> Problem:
        raise TypeError("a guard suite is measured by its parts")

    def part(self, case: str) -> Suite:
        return self.parts[suite_of_case(case)]

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        for case in described["cases"]:
            info = self.part(case["name"]).info
            assert info.guard is not None
            case["unit"] = info.unit
            case["margin_log_ppm"] = info.guard.margin_log_ppm
            case["only_if_numerics_changed"] = info.guard.only_if_numerics_changed
        described["policy"]["memory_margin_log_ppm"] = GUARD_MEMORY_MARGIN_LOG_PPM
        described["policy"]["load_margin_log_ppm"] = GUARD_LOAD_MARGIN_LOG_PPM
        return described


def guard_suite(gained: Suite, others: dict[str, Suite]) -> GuardSuite:
    """Each of `others` except `gained`, in which the gain was found."""
    parts = {name: suite for name, suite in others.items() if name != gained.name}
    cases = tuple(
        replace(case, name=f"{name}{CASE_SEPARATOR}{case.name}")
        for name, suite in parts.items()
        for case in suite.cases
    )
    return GuardSuite(
        info=gained.info,
        preset=gained.preset,
        cases=cases,
        calls_per_side=gained.calls_per_side,
        oracle_checks=gained.oracle_checks,
        tolerance=gained.tolerance,
        time_limits=gained.time_limits,
        memory_bytes=gained.memory_bytes,
        parts=MappingProxyType(parts),
    )


def with_most_calls(suite: Suite) -> Suite:
    """The suite with as many calls in a pair as its size allows: they average the noise, and cost less than more pairs."""
    return replace(suite, calls_per_side=max(suite.calls_per_side, suite.most_calls))
