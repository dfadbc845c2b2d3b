"""Parsing and formatting of typed amounts of credits, and the test for large amounts. Pure functions."""

import re

from gainshare.web.formatting import MICROCREDITS_PER_CREDIT, format_credits

HOW_TO_WRITE = (
    "This is not an amount. Enter credits as a number with a decimal point and at most six decimals, "
    "such as 250, 1500 or 0.5."
)
MAX_CHARS = 60
PLAIN = re.compile(r"(?P<whole>[0-9]+)(?:\.(?P<decimals>[0-9]{1,6}))?|\.(?P<only_decimals>[0-9]{1,6})")
GROUPED = re.compile(r"(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.(?P<decimals>[0-9]{1,6}))?")
# One separator before exactly three digits: thousands in some countries, decimals in others.
ONE_OF_TWO = re.compile(r"(?P<whole>[1-9][0-9]{0,2})[.,](?P<three>[0-9]{3})")
COMMA_DECIMALS = re.compile(r"(?P<whole>[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+),(?P<decimals>[0-9]{1,6})")
POINT_GROUPS = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}")


def parse_credits(text: str) -> int:
    """Parse typed credits to micro-credits. Commas may only separate thousands: `1,250.5`.

    Raises ValueError, with a suggestion, for text that could be read as another amount.
    """
    typed = text.strip()
    if len(typed) > MAX_CHARS:
        raise ValueError(HOW_TO_WRITE)
    if found := ONE_OF_TWO.fullmatch(typed):
        raise ValueError(_which_of_two(typed, found["whole"], found["three"]))
    found = PLAIN.fullmatch(typed) or GROUPED.fullmatch(typed)
    if found is None:
        raise ValueError(_advice(typed))
    parts = found.groupdict()
    whole = (parts["whole"] or "0").replace(",", "")
    decimals = parts["decimals"] or parts.get("only_decimals") or ""
    return int(whole) * MICROCREDITS_PER_CREDIT + int(decimals.ljust(6, "0"))


def plain_credits(microcredits: int) -> str:
    """Format an amount unambiguously for `parse_credits`: no thousands separators, never exactly three decimals."""
    whole, rest = divmod(microcredits, MICROCREDITS_PER_CREDIT)
    decimals = f"{rest:06d}".rstrip("0")
    return f"{whole}.{decimals}{'0' if len(decimals) == 3 else ''}" if decimals else str(whole)


def spelled_out(microcredits: int) -> str:
    """An amount in credits and micro-credits."""
    return f"{format_credits(microcredits)} credits = {microcredits:,} micro-credits"


def is_large(microcredits: int, *, existing: int, percent: int) -> bool:
    """Whether an amount is more than ``percent`` per cent of all existing credits."""
    return microcredits * 100 > existing * percent


def _which_of_two(typed: str, whole: str, three: str) -> str:
    decimal = int(whole) * MICROCREDITS_PER_CREDIT + int(three) * 1000
    return (
        f"“{typed}” can be read in two ways. Enter {whole}{three} for {int(whole + three):,} credits, "
        f"or {plain_credits(decimal)} for {format_credits(decimal)} credits."
    )


def _advice(typed: str) -> str:
    """Suggestion for an amount that cannot be parsed."""
    if found := COMMA_DECIMALS.fullmatch(typed):
        meant = f"{found['whole'].replace('.', '')}.{found['decimals']}"
        return (
            f"Enter decimals with a point: {meant} instead of “{typed}”. Credits have at most six decimals."
        )
    if POINT_GROUPS.fullmatch(typed):
        return f"Do not use points between thousands. Enter {typed.replace('.', '')} instead of “{typed}”."
    return HOW_TO_WRITE
