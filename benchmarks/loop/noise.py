"""A/A on this machine with the platform's own judge: the shipped stack against itself."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

from benchmarks.aa import control_rows
from benchmarks.bench import measure
from benchmarks.report import MeasuringFailed, Row
from benchmarks.sandbox import SandboxError
from benchmarks.statistics.confirm import LEAST_PAIRS


def noise_rows(*, quick: bool) -> list[Row]:
    """Rows of `python -m benchmarks.aa`; six pairs when `quick`, as many as a confirmation otherwise.

    Raises MeasuringFailed where there is no sandbox.
    """
    kind, plan = ("aa", {"looks": 1}) if quick else ("confirmation", {"confirmation_pairs": LEAST_PAIRS})
    try:
        return control_rows(measure(kind=kind, suite="moe_forward", preset="demo", base="shipped", **plan))
    except SandboxError as error:
        raise MeasuringFailed(str(error)) from error
