"""Which of two ways the compiled kernels take on this processor, as its measured rates decide.

    rates = measured(kernels_folder())              # None: nothing has been measured on this processor
    flags = (*FLAGS, *(ways_of(rates) if rates else UNMEASURED).flags())

Two choices: whether products of bf16 numbers use the processor's instruction for pairs of them or are made of fp32
numbers, to which they are widened first (on some processors the instruction runs at half the rate of fp32's fused
multiply-add, on others at twice it), and whether linear maps of many rows are multiplied by our kernels or by torch's
library, for each format. A way is compiled in, so all that one library computes takes the same.

`python -m model.native build` measures (`model/kernel_rates.py`) and keeps the rates with the libraries, once for each
processor and torch; `measure` does it again. The judge reads what was kept and measures nothing. Imports nothing but the standard library and
`model/home.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from model.home import BESIDE_THE_CODE, home_folder

Bf16Way = Literal["dot", "fma"]
LinearWay = Literal["own", "torch"]

KERNELS = "native"  # a home's folder of libraries and rates
#: Forces the way of bf16 products, for tests and comparisons.
FORCED = "GAINSHARE_BF16"
#: With fewer rows torch multiplies a linear map, unless it is so much slower in bf16: then our kernels do from a few on.
LEAST_ROWS, FEW_ROWS, LEAD_AT_FEW_ROWS = 512, 8, 3.0
#: Widening takes time too: fp32's rate has to be so much higher than that of pairs.
LEAST_LEAD = 1.15


class KernelWaysError(Exception):
    """A way that does not exist or that this processor does not have; the message says what to do."""


@dataclass(frozen=True)
class Rates:
    """Products on one core, in operations per second; 0 where this processor or this build has none."""

    fma: float  # fp32's fused multiply-add in registers
    dot: float  # the instruction for pairs of bf16 numbers, likewise
    fp32_own: float  # a linear map by our kernels
    fp32_torch: float
    bf16_own: float  # by the way of bf16 that `fma` and `dot` decide
    bf16_torch: float

    def __post_init__(self) -> None:
        """Raises KernelWaysError for what is no rate."""
        for name, rate in asdict(self).items():
            if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                raise KernelWaysError(f"{name} is not a rate: {rate!r}")


@dataclass(frozen=True)
class Ways:
    """What is compiled in. None: what the sources choose by the processor's instructions."""

    bf16: Bf16Way | None = None
    fp32_linear: LinearWay | None = None
    bf16_linear: LinearWay | None = None
    bf16_least_rows: int | None = None  # of linear maps by our kernels

    def flags(self) -> tuple[str, ...]:
        """Definitions for the compiler."""
        chosen = (
            ("BF16_BY_FMA", self.bf16, "fma"),
            ("FP32_LINEAR_BY_TORCH", self.fp32_linear, "torch"),
            ("BF16_LINEAR_BY_TORCH", self.bf16_linear, "torch"),
        )
        defined = [(name, int(way == what)) for name, way, what in chosen if way is not None]
        if self.bf16_least_rows is not None:
            defined.append(("BF16_LINEAR_LEAST_ROWS", self.bf16_least_rows))
        return tuple(f"-D{name}={value}" for name, value in defined)


UNMEASURED = Ways()


def ways_of(rates: Rates) -> Ways:
    """The faster way of each choice. Raises KernelWaysError where GAINSHARE_BF16 forces one that there is not."""
    return Ways(
        bf16=_bf16_way(rates),
        fp32_linear="own" if rates.fp32_own >= rates.fp32_torch else "torch",
        bf16_linear="own" if rates.bf16_own >= rates.bf16_torch else "torch",
        bf16_least_rows=FEW_ROWS if rates.bf16_own >= LEAD_AT_FEW_ROWS * rates.bf16_torch else LEAST_ROWS,
    )


def _bf16_way(rates: Rates) -> Bf16Way:
    forced = os.environ.get(FORCED)
    if not forced:
        return "fma" if rates.fma > LEAST_LEAD * rates.dot else "dot"
    if forced == "fma":
        return "fma"
    if forced == "dot" and rates.dot:
        return "dot"
    has_dot = (
        " or 'dot'" if rates.dot else " (this processor has no products of bf16 pairs, which 'dot' would be)"
    )
    raise KernelWaysError(f"{FORCED} is {forced!r}: set it to 'fma'{has_dot}, or unset it")


def text_of(rates: Rates) -> str:
    """For users: the ways and the rates that decided them, in GFLOP/s of one core. Raises KernelWaysError."""
    ways = ways_of(rates)
    lines = [bf16_text_of(rates)]
    for name, way, least_rows, own, torchs in (
        ("fp32", ways.fp32_linear, LEAST_ROWS, rates.fp32_own, rates.fp32_torch),
        ("bf16", ways.bf16_linear, ways.bf16_least_rows, rates.bf16_own, rates.bf16_torch),
    ):
        by = f"our kernels from {least_rows} rows on" if way == "own" else "torch"
        lines.append(f"linear maps in {name} by {by}: {own / 1e9:.0f} GFLOP/s, torch's {torchs / 1e9:.0f}")
    return "\n".join(lines)


def bf16_text_of(rates: Rates) -> str:
    """The part of `text_of` about products of bf16, one line. Raises KernelWaysError."""
    pairs = f"{rates.dot / 1e9:.0f} in bf16 pairs" if rates.dot else "no bf16 pairs"
    by = " as GAINSHARE_BF16 forces" if os.environ.get(FORCED) else ""
    return f"products of bf16 by {_bf16_way(rates)}{by}: {rates.fma / 1e9:.0f} GFLOP/s in fp32, {pairs}"


def kernels_folder(home: Path | None = None) -> Path:
    """Where libraries and rates are kept: GAINSHARE_KERNELS if `home` is not given, else `HOME/native`."""
    shared = os.environ.get("GAINSHARE_KERNELS")
    return Path(shared) if home is None and shared else home_folder(home) / KERNELS


def measured(folder: Path) -> Rates | None:
    """The rates that were measured on this processor with this torch, for these libraries or at the install."""
    file = file_of(folder)
    return None if file is None else _read(file)


def file_of(folder: Path) -> Path | None:
    """Where `measured` has them from."""
    places = (folder / _name(), BESIDE_THE_CODE / KERNELS / _name())
    return next((file for file in places if _read(file) is not None), None)


def keep(folder: Path, rates: Rates) -> Rates:
    """Keep the rates, and return those that count: of processes that measure at the same time the first one's."""
    target = folder / _name()
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".rates-", delete=False) as partial:
        json.dump(asdict(rates), partial)
    try:
        os.link(partial.name, target)
    except FileExistsError:
        if found := _read(target):
            return found
        Path(partial.name).replace(target)  # a damaged one
    finally:
        Path(partial.name).unlink(missing_ok=True)
    return rates


def forget(folder: Path) -> None:
    """Forget what was measured, so that the next build measures. Raises OSError."""
    while (file := file_of(folder)) is not None:
        file.unlink()


def _read(file: Path) -> Rates | None:
    """None where there is no file, or a damaged one."""
    try:
        table = json.loads(file.read_text())
        return Rates(**{field.name: table[field.name] for field in fields(Rates)})
    except (OSError, ValueError, KeyError, TypeError, KernelWaysError):
        return None


def _name() -> str:
    digest = hashlib.sha256("\0".join((*processor(), _torch_version())).encode()).hexdigest()
    return f"rates-{digest[:32]}.json"


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def processor() -> list[str]:
    """Model and instruction sets of the first core, as `-march=native` reads them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    return sorted({line for line in lines if line.split("\t")[0].strip(": ") in wanted})


def as_evidence(rates: Rates | None) -> Mapping[str, str | int]:
    """Text and whole numbers only: the ways, and the rates in operations per second.

    Empty where nothing was measured, and where a way is forced that there is not: no kernel was built then.
    """
    if rates is None:
        return {}
    try:
        chosen = asdict(ways_of(rates))
    except KernelWaysError:
        return {}
    return chosen | {name: round(rate) for name, rate in asdict(rates).items()}
