"""The suites a submission can be measured on. This half runs in the judge and knows no torch.

A suite is two files: `NAME.py` (judge's half: cases, secret inputs, exact answers, limits) and `NAME_sample.py` (the
half that is mounted into the sandbox and calls the stack). What web pages show about a suite is in
`benchmarks/catalogue.py`.
"""

from benchmarks import blas as _blas  # noqa: F401 - before numpy is imported
from benchmarks.suites.base import Case, Problem, Suite, TensorSpec, UnknownSuite
from benchmarks.suites.moe_forward import moe_forward

__all__ = ["SUITES", "Case", "Problem", "Suite", "TensorSpec", "UnknownSuite", "get_suite"]

SUITES = {"moe_forward": moe_forward}


def get_suite(name: str, preset: str) -> Suite:
    """The suite in the given preset; raises UnknownSuite with the names that exist."""
    if name not in SUITES:
        raise UnknownSuite(f"there is no suite {name!r}; known suites: {', '.join(sorted(SUITES))}")
    return SUITES[name](preset)
