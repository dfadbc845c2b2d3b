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
    try:
        if quick:
            sealed = measure(kind="aa", suite="moe_forward", preset="demo", base="shipped", looks=1)
        else:
            sealed = measure(
                kind="confirmation",
                suite="moe_forward",
                preset="demo",
                base="shipped",
                confirmation_pairs=LEAST_PAIRS,
            )
    except SandboxError as error:
        raise MeasuringFailed(str(error)) from error
    return control_rows(sealed)
