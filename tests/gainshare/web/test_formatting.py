"""Figures on pages. No database."""

import pytest

from gainshare.web.formatting import (
    MINUS,
    format_credits,
    format_milliseconds,
    format_signed_credits,
    in_credits,
)


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (1_000_000, "1"),
        (1_500_000, "1.5"),
        (1_234_567_890_120, "1,234,567.89012"),
        (-250_000, f"{MINUS}0.25"),
    ],
)
def test_credits_have_six_decimals_trimmed(microcredits: int, text: str) -> None:
    assert format_credits(microcredits) == text


def test_gains_carry_a_plus_sign_and_nothing_carries_none() -> None:
    assert [format_signed_credits(amount) for amount in (5_000_000, 0, -5_000_000)] == [
        "+5",
        "0",
        f"{MINUS}5",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "the gate passed; 26564500 micro-credits are reserved",
            "the gate passed; 26.5645 credits are reserved",
        ),
        ("3000000 of 10000001 micro-credits for the fix", "3 of 10.000001 credits for the fix"),
        (
            "The treasury has 1 micro-credits and this needs 2",
            "The treasury has 0.000001 credits and this needs 2",
        ),
        ("a whole number of micro-credits", "a whole number of micro-credits"),
        ("1e6 micro-credits are", "1e6 micro-credits are"),
        ("1,500,000 micro-credits", "1,500,000 micro-credits"),
    ],
)
def test_amounts_in_a_text_are_shown_in_credits(text: str, shown: str) -> None:
    assert in_credits(text) == shown


def test_durations_take_the_unit_that_reads_best() -> None:
    assert [format_milliseconds(ms) for ms in (0.4, 12, 2500, 60_000, 200_000)] == [
        "0.4 ms", "12 ms", "2.5 s", "1 min", "3 min 20 s",
    ]  # fmt: skip
