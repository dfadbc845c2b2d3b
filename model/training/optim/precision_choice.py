"""Choose the precision of a training run: the file's, its checkpoint's, or by measured rates of products.

A file that says `auto` leaves the choice to the device. On CUDA it is bf16 where the GPU computes in it. On a CPU the
rates of products decide, measured at the start of the run: processors without bf16 products compute faster in fp32. A
run that is resumed keeps the precision of its checkpoint, so that its bits do not depend on a measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from model.training.config.run_config import PrecisionName
from model.training.optim.precision import Precision, check_precision, obstacle
from model.training.report.product_rates import ProductRates

#: bf16 is chosen where its products are at least this much faster than fp32's. At equal rates a step in bf16 is up to an
#: eighth slower on processors that round by several instructions (docs/lab/performance.md), and a choice near a ratio of
#: one would change from run to run.
BF16_LEAD = 1.1


@dataclass(frozen=True)
class PrecisionChoice:
    """Precision of a run, the reason for it, and a notice for the user where a resumed run changes it."""

    precision: Precision
    reason: str | None = None  # None: the run's file names the precision
    notice: str | None = None


def choose(
    wanted: PrecisionName,
    device: torch.device,
    *,
    saved: Precision | None,
    has_fp16: bool,
    measure: Callable[[], ProductRates],
) -> PrecisionChoice:
    """Choose a run's precision. `saved` is that of the checkpoint that it continues, if there is one.

    `has_fp16` says whether this run can scale its loss, which fp16 needs. `measure` is called only for a new choice
    on a CPU. Raises ConfigError where the file names a precision that the device cannot train in.
    """
    if wanted != "auto":
        check_precision(wanted, device)
        return PrecisionChoice(wanted)
    if saved is None:
        return _new(device, has_fp16=has_fp16, measure=measure)
    reason_against = obstacle(saved, device)
    if saved == "fp16" and not has_fp16:
        reason_against = "several processes do not train in fp16"
    if reason_against is None:
        return PrecisionChoice(saved, "the checkpoint was made in it")
    new = _new(device, has_fp16=has_fp16, measure=measure)
    notice = (
        f"the checkpoint was made in {saved}, but {reason_against}: the run continues in {new.precision}. "
        "Set [compute] precision to choose another one"
    )
    return replace(new, notice=notice)


def pick(rates: ProductRates) -> PrecisionChoice:
    """Pick fp32 unless bf16's products are faster by at least `BF16_LEAD`."""
    if rates.bf16 >= BF16_LEAD * rates.fp32:
        return PrecisionChoice("bf16", f"{_compared(rates.bf16, rates.fp32)} in fp32")
    reason = f"{_compared(rates.fp32, rates.bf16)} in bf16"
    if rates.bf16 > rates.fp32:
        reason += f", which would have to be {BF16_LEAD - 1:.0%} faster to make up for its roundings"
    return PrecisionChoice("fp32", reason)


def _new(device: torch.device, *, has_fp16: bool, measure: Callable[[], ProductRates]) -> PrecisionChoice:
    if device.type != "cuda":
        return pick(measure())
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return PrecisionChoice("bf16", "this GPU has bf16 products")
    if has_fp16:
        return PrecisionChoice("fp16", "this GPU has no bf16 products")
    return PrecisionChoice(
        "fp32", "this GPU has no bf16 products, and several processes do not train in fp16"
    )


def _compared(rate: float, other: float) -> str:
    """The two rates in words, up to the other's name."""
    return f"products of one thread reach {rate / 1e9:.3g} GFLOP/s, against {other / 1e9:.3g}"
