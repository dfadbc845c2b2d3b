"""`python -m benchmarks.figures.linear` at toy sizes: both forms compute the same, and ratios come of their own rounds."""

from __future__ import annotations

import pytest
import torch

from benchmarks.figures import linear as bench
from benchmarks.report import MeasuringFailed
from model.layers import linear_fused
from tests.needs_torch import needs_kernels

SHAPE = bench.Shape("toy", 9, 20, 30)
PRODUCTS = ("answer", "gradient of rows", "gradient of weight")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_compute_the_same(dtype: torch.dtype) -> None:
    products = bench._products(SHAPE, dtype)
    assert tuple(products) == PRODUCTS
    for forms in products.values():
        tolerance = 1e-5 if dtype is torch.float32 else 1e-2
        torch.testing.assert_close(forms["ours"](), forms["torch"](), rtol=tolerance, atol=tolerance)


@needs_kernels
def test_rows_are_there_for_each_format_and_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 3)
    rows = bench.measure(rounds=2, shapes=(SHAPE,))
    assert [row.name for row in rows] == [
        f"toy: 9 rows, 20 to 30, {dtype}, {product}" for dtype in ("fp32", "bf16") for product in PRODUCTS
    ]
    assert all(row.how.endswith("GFLOP/s; 2 rounds") for row in rows)


def test_ratios_are_taken_within_rounds() -> None:
    """The second round ran on a machine ten times as slow; that tilts nothing."""
    row = bench.row_of(SHAPE, "fp32, answer", {"ours": [1e-6, 1e-5], "torch": [2e-6, 2e-5]})
    assert (row.value, row.holds) == (2.0, True)
    assert row.how == "ours 2 GFLOP/s, torch 1 GFLOP/s; 2 rounds"


def test_where_they_are_not_used_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 0)
    with pytest.raises(MeasuringFailed, match="linear maps are torch's on this processor"):
        bench.measure(rounds=2)
