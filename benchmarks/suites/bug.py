"""Suites that a fix must leave right: all that guard others, in their quick presets, one pair of each case.

Both sides of a pair run the candidate, so that only the oracle's answers count: a fix may differ from base. The
held-out loss of `quality` has no exact answer and is not among them. How fast anything is does not matter here.
"""

from dataclasses import replace

from benchmarks.catalogue import BUG, UnknownSuite
from benchmarks.catalogue import SUITES as CATALOGUE
from benchmarks.suites import SUITES
from benchmarks.suites.guard import GuardSuite, guard_suite


def bug_suite(preset: str) -> GuardSuite:
    """All suites that have exact answers. Raises UnknownSuite for a preset that there is not."""
    if preset not in BUG.presets:
        raise UnknownSuite(
            f"there is no preset {preset!r} of suite {BUG.name}; choose {', '.join(BUG.presets)}"
        )
    parts = {
        name: SUITES[name](info.guard.preset)
        for name, info in CATALOGUE.items()
        if info.guard is not None and not info.guard.only_if_numerics_changed
    }
    whole = next(iter(parts.values()))
    return guard_suite(replace(whole, info=BUG, preset=preset), parts)
