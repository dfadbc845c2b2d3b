"""The choice of a run's precision: by its file, its checkpoint, the GPU, or by rates that are given here."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError
from model.training.config.run_config import PrecisionName
from model.training.optim.precision import DTYPES, Precision
from model.training.optim.precision_choice import BF16_LEAD, PrecisionChoice, choose, pick
from model.training.report.product_rates import ProductRates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP32_FASTER, BF16_FASTER = ProductRates(fp32=80e9, bf16=11e9), ProductRates(fp32=48e9, bf16=61e9)


class Measured:
    """A measurement that returns given rates and counts its calls."""

    def __init__(self, rates: ProductRates = FP32_FASTER) -> None:
        self.rates, self.n_calls = rates, 0

    def __call__(self) -> ProductRates:
        self.n_calls += 1
        return self.rates


def chosen(
    wanted: PrecisionName = "auto",
    device: torch.device = CPU,
    *,
    saved: Precision | None = None,
    has_fp16: bool = True,
    measure: Measured | None = None,
) -> PrecisionChoice:
    return choose(wanted, device, saved=saved, has_fp16=has_fp16, measure=measure or Measured())


def gpu(monkeypatch: pytest.MonkeyPatch, *, products: bool, emulation: bool = True) -> None:
    """A GPU with or without bf16 products, and with or without torch's emulation of them."""

    def is_supported(including_emulation: bool = True) -> bool:
        return products or (including_emulation and emulation)

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)


def test_the_faster_products_decide() -> None:
    assert pick(BF16_FASTER) == PrecisionChoice(
        "bf16", "products of one thread reach 61 GFLOP/s, against 48 in fp32"
    )
    assert pick(FP32_FASTER) == PrecisionChoice(
        "fp32", "products of one thread reach 80 GFLOP/s, against 11 in bf16"
    )


def test_bf16_needs_a_lead_and_the_reason_says_so() -> None:
    close = pick(ProductRates(fp32=48e9, bf16=50e9))
    assert close.precision == "fp32"
    assert close.reason == (
        "products of one thread reach 48 GFLOP/s, against 50 in bf16, "
        "which would have to be 10% faster to make up for its roundings"
    )
    assert pick(ProductRates(fp32=48e9, bf16=BF16_LEAD * 48e9)).precision == "bf16"


@given(fp32=st.floats(1e6, 1e15), bf16=st.floats(1e6, 1e15), scale=st.floats(1e-3, 1e3))
def test_only_the_ratio_of_the_rates_counts(fp32: float, bf16: float, scale: float) -> None:
    found = pick(ProductRates(fp32, bf16)).precision
    assert found == ("bf16" if bf16 >= BF16_LEAD * fp32 else "fp32")
    if abs(bf16 / fp32 / BF16_LEAD - 1) > 1e-9:  # else rounding of the scaled rates decides
        assert pick(ProductRates(scale * fp32, scale * bf16)).precision == found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_s_precision_is_used_whatever_is_measured_or_saved(precision: Precision) -> None:
    measure = Measured()
    for saved in (None, "fp32", "bf16", "fp16"):
        assert chosen(precision, saved=saved, measure=measure) == PrecisionChoice(precision)  # type: ignore[arg-type]
    assert measure.n_calls == 0
    with pytest.raises(ConfigError, match="'fp16' is for CUDA, and this run is on cpu: use precision 'auto'"):
        chosen("fp16")


@pytest.mark.parametrize("saved", ["fp32", "bf16"])
def test_a_checkpoint_s_precision_is_kept_without_measuring(saved: Precision) -> None:
    for rates in (FP32_FASTER, BF16_FASTER):
        measure = Measured(rates)
        assert chosen(saved=saved, measure=measure) == PrecisionChoice(saved, "the checkpoint was made in it")
        assert measure.n_calls == 0


def test_a_checkpoint_s_precision_that_the_device_lacks_is_replaced_with_a_notice() -> None:
    found = chosen(saved="fp16", measure=Measured(BF16_FASTER))
    assert (found.precision, found.reason) == ("bf16", pick(BF16_FASTER).reason)
    assert found.notice == (
        "the checkpoint was made in fp16, but precision 'fp16' is for CUDA, and this run is on cpu: the run continues "
        "in bf16. Set [compute] precision to choose another one"
    )


def test_cuda_takes_bf16_where_the_gpu_multiplies_in_it_else_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Measured()
    gpu(monkeypatch, products=True)
    assert chosen(device=CUDA, measure=measure) == PrecisionChoice("bf16", "this GPU has bf16 products")
    gpu(monkeypatch, products=False)  # emulated products are slow
    assert chosen(device=CUDA, measure=measure).precision == "fp16"
    several = chosen(device=CUDA, has_fp16=False, measure=measure)
    assert several.precision == "fp32" and "several processes do not train in fp16" in str(several.reason)
    assert measure.n_calls == 0


def test_a_checkpoint_in_emulated_bf16_is_continued_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, products=False)
    assert chosen(device=CUDA, saved="bf16").precision == "bf16"
    gpu(monkeypatch, products=False, emulation=False)
    without = chosen(device=CUDA, saved="bf16")
    assert without.precision == "fp16" and "this GPU has no bf16" in str(without.notice)


def test_several_processes_do_not_continue_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, products=True)
    assert chosen(device=CUDA, saved="fp16").precision == "fp16"
    several = chosen(device=CUDA, saved="fp16", has_fp16=False)
    assert several.precision == "bf16"
    assert "made in fp16, but several processes do not train in fp16" in str(several.notice)


def test_what_is_chosen_is_a_format_and_never_auto() -> None:
    assert set(get_args(PrecisionName)) == {"auto", *DTYPES}
    assert set(get_args(Precision)) == set(DTYPES)
