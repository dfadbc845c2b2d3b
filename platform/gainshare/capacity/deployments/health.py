"""When a deployment whose requests fail is rolled back by itself: rules over what the gateway counted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.power.intervals import binomial_lower, binomial_upper

MIN_FAILURES = 3
BEFORE_ERROR = 1e-3  # how often the rate of the tree before is above its bound; spent once a deployment
NEW_ERROR = 1e-6  # how often one look finds a tree above that bound which is not
MAX_RATE = 0.5  # more failures than answers are too many, where little is known of the tree before


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests that were answered and that failed."""

    answered: int = 0
    failed: int = 0


def fails_more(new: Outcomes, before: Outcomes) -> bool:
    """Whether surely more of the new tree's requests fail than did of the tree before.

    The lower Clopper-Pearson bound of the new rate, at NEW_ERROR, is above the upper bound of the rate before, at
    BEFORE_ERROR. Where the tree before is hardly known, more failures than answers (MAX_RATE) are too many. Two trees
    that fail equally often are told apart in at most BEFORE_ERROR of deployments, plus NEW_ERROR for each look.
    """
    if new.failed < MIN_FAILURES:
        return False
    n_before = before.answered + before.failed
    usual = binomial_upper(before.failed, n_before, BEFORE_ERROR)
    if 2 * before.failed <= n_before:
        usual = min(usual, MAX_RATE)
    return binomial_lower(new.failed, new.answered + new.failed, NEW_ERROR) > usual
