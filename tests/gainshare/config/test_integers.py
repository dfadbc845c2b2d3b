"""Whole numbers from the environment: bounds hold on both sides, and a bad value is refused by its variable's name."""

import os
import subprocess
import sys

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


def test_a_recall_of_a_lent_device_is_over_within_thirty_seconds() -> None:
    """Beat looks every 5 s, so that no more than 25 s can be asked for."""
    done = subprocess.run(
        [sys.executable, "-c", "import gainshare.config.settings"],
        env={**os.environ, "GAINSHARE_LOAN_RECALL_S": "26"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode and "GAINSHARE_LOAN_RECALL_S must be at most 25" in done.stderr
