"""Which lines of a bill each suite measures: the catalogue's suites, and none by default."""

import pytest

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from benchmarks.catalogue import SUITES, payable_suites
from benchmarks.sharing.lines import Measures, measures
from benchmarks.sharing.savings import PRICED_LINES

NONE = ("moe_backward", "train_step", "time_to_loss", "quality", "checkpoint_load", "bug")


def test_every_suite_that_measures_a_line_is_one_that_pays() -> None:
    measuring = {name for name in SUITES if measures(name) != Measures()}
    assert measuring <= set(payable_suites())
    assert set(NONE) <= set(payable_suites())


def test_a_line_that_is_measured_has_a_price() -> None:
    assert {line for info in SUITES.values() for line in info.lines} == set(PRICED_LINES)


@pytest.mark.parametrize(
    ("suite", "whole", "part"),
    [
        ("prefill", {PREFILL}, set()),
        ("decode", {DECODE}, set()),
        ("decode_batched", {DECODE}, set()),
        ("moe_forward", set(), {PREFILL, DECODE}),
        ("peak_memory", {MEMORY}, set()),
    ],
)
def test_a_suite_measures_its_lines(suite: str, whole: set[str], part: set[str]) -> None:
    assert measures(suite) == Measures(frozenset(whole), frozenset(part))


@pytest.mark.parametrize("suite", [*NONE, "mixed_load", "a_suite_that_is_added_later"])
def test_other_suites_measure_none(suite: str) -> None:
    assert measures(suite) == Measures()
