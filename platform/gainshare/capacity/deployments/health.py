"""When a deployment that serves is rolled back by itself: rules over what the gateway counted. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.power.intervals import binomial_lower, binomial_upper

MIN_FAILURES = 3
BEFORE_ERROR = 1e-3  # how often the rate of the tree before is above its bound; spent once a deployment
NEW_ERROR = 1e-6  # how often one look finds a tree above that bound which is not
MAX_RATE = 0.5  # more failures than answers are too many, where little is known of the tree before
MIN_TOKENS = 16  # of a window that says something about the time per token
SLOW_WINDOWS = 5  # windows with tokens, of the ten in five minutes

NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests that were answered and that failed."""

    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class TokenTime:
    """Answers of one node in one window: their tokens, the time that these took, and the mean number of answers at once."""

    tokens: int
    decode_ms: int
    batch: float


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


def expected_ns(batch: float, times: Mapping[int, int]) -> float:
    """Nanoseconds a token at so many answers at once, between the batch sizes that the canary clocked.

    ``times`` maps batch sizes to nanoseconds and is not empty. Below the smallest it is that one's; above the largest,
    the line through the two largest is extended, or one through zero where there is only one, and never falls.
    """
    known = sorted(times.items())
    if batch <= known[0][0]:
        return float(known[0][1])
    for (low, low_ns), (high, high_ns) in pairwise(known):
        if batch <= high:
            return low_ns + (high_ns - low_ns) * (batch - low) / (high - low)
    (low, low_ns), (high, high_ns) = ((0, 0), known[0]) if len(known) == 1 else (known[-2], known[-1])
    return high_ns + max(high_ns - low_ns, 0) * (batch - high) / (high - low)


def slowness(nodes: Sequence[TokenTime], times: Mapping[int, int]) -> float | None:
    """The time that these tokens took over what the canary says it should be; None with fewer than MIN_TOKENS."""
    tokens = sum(node.tokens for node in nodes)
    if tokens < MIN_TOKENS:
        return None
    expected = sum(node.tokens * expected_ns(node.batch, times) for node in nodes)
    return sum(node.decode_ms for node in nodes) * NS_PER_MS / expected


def stays_slow(windows: Sequence[float | None], *, usual: float, slower_percent: int) -> bool:
    """Whether tokens took too long in every window of the last minutes that has enough of them.

    ``windows`` are their `slowness`, ``usual`` that of the tree before in service: hosts that are busier than the one
    of the canary are not the new tree's fault. Fewer than SLOW_WINDOWS windows with tokens say nothing.
    """
    known = [window for window in windows if window is not None]
    limit = max(usual, 1.0) * (1 + slower_percent / 100)
    return len(known) >= SLOW_WINDOWS and all(window > limit for window in known)
