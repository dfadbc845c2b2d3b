"""Whole numbers from the environment: bounds hold on both sides, and a bad value is refused by its variable's name."""

import pytest

from gainshare.config.env import BadSetting, Env

NAME = "GAINSHARE_RECHECK_PERCENT"


def read(value: str) -> int:
    return Env({NAME: value}).integer(NAME, 10, minimum=0, maximum=100)


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("100", 100), (" 25 ", 25), ("", 10)])
def test_a_number_within_its_bounds_is_read(value: str, number: int) -> None:
    assert read(value) == number


@pytest.mark.parametrize(
    ("value", "words"),
    [("-1", "at least 0"), ("101", "at most 100"), ("ten", "whole number"), ("1.5", "whole")],
)
def test_anything_else_is_refused_by_name(value: str, words: str) -> None:
    with pytest.raises(BadSetting, match=f"{NAME} must be .*{words}"):
        read(value)


def test_without_a_maximum_there_is_none() -> None:
    assert Env({NAME: "1000000"}).integer(NAME, 10, minimum=0) == 1_000_000
