"""Typed amounts: parsed unambiguously, or refused with a suggestion. No database."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.web.formatting import format_credits
from gainshare.web.forms.amounts import is_large, parse_credits, plain_credits, spelled_out

AMOUNTS = st.integers(min_value=0, max_value=2**62)


@given(AMOUNTS)
def test_a_plainly_written_amount_reads_back_exactly(microcredits: int) -> None:
    assert parse_credits(plain_credits(microcredits)) == microcredits


@given(AMOUNTS)
def test_an_amount_as_pages_show_it_reads_back_exactly_or_not_at_all(microcredits: int) -> None:
    shown = format_credits(microcredits)
    try:
        assert parse_credits(shown) == microcredits
    except ValueError:
        assert re.fullmatch(r"[1-9][0-9]{0,2}[.,][0-9]{3}", shown)


def readings(text: str) -> set[int]:
    """Every possible meaning of an amount: with a decimal point, and with a decimal comma."""
    found = set()
    for decimal, group in ((".", ","), (",", ".")):
        groups = rf"[1-9][0-9]{{0,2}}(?:\{group}[0-9]{{3}})+|[0-9]+|"
        match = re.fullmatch(rf"({groups})(?:\{decimal}([0-9]{{1,6}}))?", text)
        if match and any(match.groups()):
            whole, decimals = match[1].replace(group, "") or "0", match[2] or ""
            found.add(int(whole) * 1_000_000 + int(decimals.ljust(6, "0")))
    return found


@given(st.from_regex(r"[0-9]{0,4}(?:[.,][0-9]{1,4}){0,3}", fullmatch=True))
def test_what_is_read_has_one_reading_only(text: str) -> None:
    try:
        amount = parse_credits(text)
    except ValueError:
        return
    assert readings(text) == {amount}


@given(st.text(alphabet="0123456789.,' _-+eE٣\u00a0", max_size=70))
def test_nothing_typed_is_an_unforeseen_error_or_negative(text: str) -> None:
    try:
        assert parse_credits(text) >= 0
    except ValueError as refusal:
        assert "Enter" in str(refusal)


@pytest.mark.parametrize(
    ("text", "microcredits"),
    [
        ("250", 250_000_000),
        (" 0.5 ", 500_000),
        (".5", 500_000),
        ("0.125", 125_000),
        ("1,250.5", 1_250_500_000),
        ("1,250.500", 1_250_500_000),
        ("1,500,000", 1_500_000_000_000),
        ("1.1250", 1_125_000),
    ],
)
def test_what_is_meant_in_one_way_is_read(text: str, microcredits: int) -> None:
    assert parse_credits(text) == microcredits


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("0,5", "0.5 instead"),
        ("1,5", "1.5 instead"),
        ("10,00", "10.00 instead"),
        ("0,500", "0.500 instead"),
        ("1.000,50", "1000.50 instead"),
        ("1.234.567", "1234567 instead"),
        ("1.234.567,5", "1234567.5 instead"),
        ("1,500", "Enter 1500 for 1,500 credits, or 1.5 for 1.5 credits"),
        ("1.500", "Enter 1500 for 1,500 credits, or 1.5 for 1.5 credits"),
        ("2,000", "Enter 2000 for 2,000 credits, or 2 for 2 credits"),
        ("1.125", "Enter 1125 for 1,125 credits, or 1.1250 for 1.125 credits"),
        ("1,25,000", "at most six decimals"),
        ("1 500", "at most six decimals"),
        ("1'500", "at most six decimals"),
        ("\uff11\uff15", "at most six decimals"),
        ("9" * 61, "at most six decimals"),
    ],
)
def test_what_could_be_another_amount_is_refused_with_what_to_write(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match=re.escape(instead)):
        parse_credits(text)


def test_an_amount_is_spelled_out_in_both_units() -> None:
    assert spelled_out(1_500_000_000) == "1,500 credits = 1,500,000,000 micro-credits"


def test_large_is_relative_to_what_exists() -> None:
    assert is_large(1, existing=0, percent=25)
    assert not is_large(250, existing=1000, percent=25)
    assert is_large(251, existing=1000, percent=25)


@pytest.mark.parametrize("text", ["", "-1", "1.2345678", "1e3", "one", "٣", "1.2.3"])
def test_amounts_that_are_no_credits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="six decimals"):
        parse_credits(text)
