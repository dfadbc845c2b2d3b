"""Numbers between clock and verdict: nanoseconds to log ratios to millionths of a nat, always rounded down.

Rounding down is against the contributor. Logarithms are `decimal`'s, which are correctly rounded, so every machine
gets the same integer.
"""

from collections.abc import Sequence
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import lru_cache

PPB = 1_000_000_000
PPM = 1_000_000
_CONTEXT = Context(prec=40)


@lru_cache(maxsize=1 << 14)  # a document's pairs are read several times while it is verified
def log_ppb(ratio: Fraction) -> int:
    """ln(ratio) in billionths of a nat, rounded down. Raises ValueError unless the ratio is positive."""
    if ratio <= 0:
        raise ValueError("a ratio of times is positive")
    quotient = _CONTEXT.divide(Decimal(ratio.numerator), Decimal(ratio.denominator))
    return _floor(_CONTEXT.multiply(_CONTEXT.ln(quotient), Decimal(PPB)))


def pair_log_ppb(calls: Sequence[tuple[int, int]]) -> int:
    """A pair's log ratio: ln of the median of base_ns / candidate_ns over its calls, in billionths, rounded down.

    `calls` holds (base_ns, candidate_ns) of each turn. For an even number the median's logarithm is the mean of the
    two middle ones' logarithms, that is half the logarithm of their product.
    """
    if not calls or any(base <= 0 or candidate <= 0 for base, candidate in calls):
        raise ValueError("a pair needs calls, each of a positive number of nanoseconds")
    ratios = sorted(Fraction(base, candidate) for base, candidate in calls)
    half = len(ratios) // 2
    if len(ratios) % 2:
        return log_ppb(ratios[half])
    return log_ppb(ratios[half - 1] * ratios[half]) // 2


def nats(ppb: int) -> float:
    """Billionths of a nat as a float in nats."""
    return ppb / PPB


def floor_ppm(value: float) -> int:
    """Nats to millionths of a nat, rounded down; `value` is taken as its shortest decimal form."""
    return _floor(_CONTEXT.multiply(Decimal(repr(value)), Decimal(PPM)))


def signed_percent(ppm: int) -> str:
    """A log ratio as a change of speed: "+5.1 %" for a base that takes 5.1 % longer, "-4.8 %"; rounded down."""
    factor = _CONTEXT.exp(_CONTEXT.divide(Decimal(ppm), Decimal(PPM)))
    tenths = _floor(_CONTEXT.multiply(_CONTEXT.subtract(factor, Decimal(1)), Decimal(1000)))
    sign = "+" if tenths > 0 else "-" if tenths < 0 else ""
    return f"{sign}{abs(tenths) // 10}.{abs(tenths) % 10} %"


def speed_times(ppm: int) -> str:
    """A log ratio as a speed: "3.00x" for what is three times as fast; rounded down to hundredths."""
    hundredths = _floor(
        _CONTEXT.multiply(_CONTEXT.exp(_CONTEXT.divide(Decimal(ppm), Decimal(PPM))), Decimal(100))
    )
    return f"{hundredths // 100}.{hundredths % 100:02d}x"


def _floor(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_FLOOR))
