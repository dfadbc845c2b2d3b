"""The suites a submission can be measured on. This half runs in the judge and knows no torch.

A suite is two files: `NAME.py` (judge's half: secret inputs, exact answers, tolerances) and `NAME_sample.py` (the
half that is mounted into the sandbox and calls the stack). The sizes and limits of all suites are in
`benchmarks/catalogue`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

from benchmarks import blas as _blas  # noqa: F401 - before numpy is imported
from benchmarks import catalogue
from benchmarks.catalogue import BUG, Case, UnknownSuite, guarding_suites
from benchmarks.suites.base import Problem, Suite, TensorSpec
from benchmarks.suites.guard import guard_suite, with_most_calls

__all__ = [
    "SUITES",
    "Case",
    "Problem",
    "Suite",
    "TensorSpec",
    "UnknownSuite",
    "get_guard_suite",
    "get_suite",
]

# Name -> what makes the suite at one preset's sizes: the function of that name in the module of that name.
SUITES: Mapping[str, Callable[[str], Suite]] = MappingProxyType(
    {
        name: getattr(import_module(f"{__name__}.{name}"), name)
        for name in catalogue.SUITES
        if name != BUG.name
    }
)


def get_suite(name: str, preset: str) -> Suite:
    """The suite in the given preset; raises UnknownSuite with the names that exist."""
    if name not in SUITES:
        raise UnknownSuite(f"there is no suite {name!r}; known suites: {', '.join(sorted(SUITES))}")
    return SUITES[name](preset)


def get_guard_suite(name: str, preset: str) -> Suite:
    """Make the suite that guards a gain in this one: the guarding suites, in their quick presets. Raises UnknownSuite.

    A preset for demos names fewer of them.
    """
    gained = get_suite(name, preset)
    guards = {
        info.name: with_most_calls(SUITES[info.name](guard.preset))
        for info, guard in guarding_suites(name, preset)
    }
    return guard_suite(gained, guards)
