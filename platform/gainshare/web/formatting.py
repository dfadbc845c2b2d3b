"""Formatting of figures on pages: credits, durations, sizes. Pure functions."""

import re

MICROCREDITS_PER_CREDIT = 1_000_000
MINUS = "\N{MINUS SIGN}"
MICROCREDITS_IN_TEXT = re.compile(r"(?<![\w,.])(\d{1,19})(?: of (\d{1,19}))? micro-credits\b")


def format_credits(microcredits: int) -> str:
    """Micro-credits as credits: six decimals, trailing zeros trimmed, thousands separated: `1,234.5`."""
    whole, rest = divmod(abs(microcredits), MICROCREDITS_PER_CREDIT)
    decimals = f"{rest:06d}".rstrip("0")
    sign = MINUS if microcredits < 0 else ""
    return f"{sign}{whole:,}" + (f".{decimals}" if decimals else "")


def format_signed_credits(microcredits: int) -> str:
    """Like `format_credits`, with a plus sign before positive amounts."""
    return ("+" if microcredits > 0 else "") + format_credits(microcredits)


def in_credits(text: str) -> str:
    """Convert the amounts in a text to credits: `26564500 micro-credits` becomes `26.5645 credits`."""
    return MICROCREDITS_IN_TEXT.sub(_amounts_in_credits, text)


def _amounts_in_credits(found: re.Match[str]) -> str:
    amounts = [format_credits(int(amount)) for amount in found.groups() if amount is not None]
    return f"{' of '.join(amounts)} credits"


def format_milliseconds(milliseconds: float) -> str:
    """A duration in the unit that reads best: `0.4 ms`, `320 ms`, `2.5 s`, `3 min 20 s`."""
    if milliseconds < 1:
        return f"{milliseconds:.2g} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
