"""`python -m benchmarks.figures.attention` at toy sizes: each form is really the one named, and ratios come of their own rounds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch.nn.functional as F

from benchmarks.figures import attention as bench
from benchmarks.report import MeasuringFailed
from model.layers.attention import gqa_fused
from tests.needs_torch import needs_kernels

PACKED = bench.Shape(1, 12, 3)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each form computed, and whether torch's had a mask."""
    count: Counter[str] = Counter()
    ours, theirs = gqa_fused.attend, F.scaled_dot_product_attention

    def counted_ours(*arguments: object, **more: object) -> object:
        count["ours"] += 1
        return ours(*arguments, **more)  # type: ignore[arg-type]

    def counted_theirs(*arguments: object, **more: object) -> object:
        count["torch, masked" if more["attn_mask"] is not None else "torch"] += 1
        return theirs(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(gqa_fused, "attend", counted_ours)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted_theirs)
    monkeypatch.setattr(gqa_fused, "_fast_formats", lambda: 3)
    return count


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "torchs"), [(bench.Shape(2, 7), "torch"), (PACKED, "torch, masked")], ids=["causal", "packed"]
)
def test_each_form_is_the_one_named_and_takes_its_turn(
    shape: bench.Shape, torchs: str, used: Counter[str]
) -> None:
    cell = bench._cell(shape, "fp32", rounds=2)
    assert used == Counter({"ours": 3, torchs: 3})  # one of them to warm up
    assert all(len(pairs) == 2 and min(min(pair) for pair in pairs) > 0 for pairs in cell.seconds.values())


@needs_kernels
@pytest.mark.usefixtures("used")
def test_rows_are_there_for_each_shape_format_and_direction() -> None:
    rows = bench.measure(rounds=2, shapes=(PACKED,))
    assert [row.name for row in rows] == [
        f"1 x 12 tokens in 3 documents each, {dtype}, {direction}"
        for dtype in ("fp32", "bf16")
        for direction in ("forward", "backward")
    ]
    assert all(row.holds == (float(row.value or 0) < 1) or row.value == 1 for row in rows)


def test_documents_are_of_equal_length() -> None:
    first = PACKED.first_seen()
    assert first is not None and first.tolist() == [[0] * 4 + [4] * 4 + [8] * 4]
    assert bench.Shape(4, 9).first_seen() is None


def test_ratios_are_taken_within_rounds() -> None:
    """The second round ran on a machine ten times as slow; that tilts nothing."""
    cell = bench.Cell(
        PACKED, "fp32", {"ours": [(1.0, 6.0), (10.0, 60.0)], "torch": [(2.0, 3.0), (20.0, 30.0)]}
    )
    forward, backward = cell.rows()
    assert (forward.value, forward.holds, backward.value, backward.holds) == (0.5, True, 2.0, False)


def test_without_kernels_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gqa_fused, "fits", lambda *_: False)
    with pytest.raises(MeasuringFailed, match="no compiled attention"):
        bench.measure(rounds=2)
