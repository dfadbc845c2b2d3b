"""The suites a submission can be measured on. This half runs in the judge and knows no torch.

A suite is two files: `NAME.py` (judge's half: secret inputs, exact answers, tolerances) and `NAME_sample.py` (the
half that is mounted into the sandbox and calls the stack). The sizes and limits of all suites are in
`benchmarks/catalogue`.
"""

from benchmarks import blas as _blas  # noqa: F401 - before numpy is imported
from benchmarks.catalogue import Case, UnknownSuite, guarding_suites
from benchmarks.suites.base import Problem, Suite, TensorSpec
from benchmarks.suites.checkpoint_load import checkpoint_load
from benchmarks.suites.decode import decode
from benchmarks.suites.decode_batched import decode_batched
from benchmarks.suites.guard import guard_suite
from benchmarks.suites.moe_backward import moe_backward
from benchmarks.suites.moe_forward import moe_forward
from benchmarks.suites.peak_memory import peak_memory
from benchmarks.suites.prefill import prefill
from benchmarks.suites.quality import quality
from benchmarks.suites.time_to_loss import time_to_loss
from benchmarks.suites.train_step import train_step

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

SUITES = {
    "moe_forward": moe_forward,
    "moe_backward": moe_backward,
    "train_step": train_step,
    "time_to_loss": time_to_loss,
    "quality": quality,
    "prefill": prefill,
    "decode": decode,
    "decode_batched": decode_batched,
    "checkpoint_load": checkpoint_load,
    "peak_memory": peak_memory,
}


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
    guards = {info.name: SUITES[info.name](guard.preset) for info, guard in guarding_suites(name, preset)}
    return guard_suite(gained, guards)
