"""Exact intervals for a simulated rate: Clopper & Pearson, Biometrika 26 (1934), one-sided, by bisection."""

import math

ERROR = 0.05


def binomial_upper(found: int, of: int, error: float = ERROR) -> float:
    """The upper end: the largest rate at which so few would be found with probability `error`."""
    if found >= of:
        return 1.0
    low, high = found / of, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(found, of, middle) < error else (middle, high)
    return high


def binomial_lower(found: int, of: int, error: float = ERROR) -> float:
    """The lower end of the same."""
    return 1.0 - binomial_upper(of - found, of, error)


def at_most(found: int, of: int, limit: float) -> bool | None:
    """Compare a rate with `limit`: True or False where the interval decides, None where it does not."""
    if binomial_upper(found, of) <= limit:
        return True
    return False if binomial_lower(found, of) > limit else None


def _at_most(found: int, of: int, rate: float) -> float:
    """P(X <= found) for X ~ Binomial(of, rate); the nearer tail is summed."""
    if rate <= 0.0 or rate >= 1.0:
        return 1.0 if rate <= 0.0 else 0.0
    log, log_not = math.log(rate), math.log1p(-rate)

    def term(k: int) -> float:
        choose = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        return math.exp(choose + k * log + (of - k) * log_not)

    if found <= of // 2:
        return math.fsum(map(term, range(found + 1)))
    return 1.0 - math.fsum(map(term, range(found + 1, of + 1)))
