"""When a deployment takes too long for its tokens or its prompts: rules over the gateway's clock and the canary's. Pure.

A window's pace is the time that its work took over the time that the canary says it should take. The usual pace on the
model's hosts is that of the tree before the first clocked one in a chain of deployments: see `inherited`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import exp, log, pi, sqrt
from typing import Any

from gainshare.capacity.routing.estimates import BASE_TOKENS

MIN_TOKENS = 16  # of a window that says something about the time per token
SLOW_WINDOWS = 5  # windows with tokens, of the ten in five minutes
LONG_WINDOWS = 40  # of a long look, in which fast windows count as well
SLOW_PART = 0.8  # of the windows of a short look, each above the limit
WELL_KNOWN = 20  # windows of the tree before that say what is usual
UNKNOWN_SCATTER = 0.4  # of the logarithm of a window's pace, where hardly anything is known
SURE = 4.0  # standard errors: there are 2880 looks a day, and an equal tree must stay for years
BLOCK = 10  # windows of five minutes: hosts that are busy for minutes scatter more than single windows tell
LEAST_BLOCKS = 4
INHERITED_FOR = timedelta(days=90)  # as long as a gain is paid by default
NS_PER_MS = 1_000_000
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenTime:
    """Answers of one node in one window: their tokens, the time that these took, and the mean number of answers at once."""

    tokens: int
    decode_ms: int
    batch: float


@dataclass(frozen=True, slots=True)
class PromptTime:
    """Prompts of one node in one window: their `estimates.work_tokens`, and the time until their first tokens came."""

    requests: int
    work_tokens: int
    prefill_ms: int
    batch: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What the work of one window took, and what the canary says it should take, in nanoseconds."""

    took_ns: float
    expected_ns: float

    @property
    def log(self) -> float:
        return log(max(self.took_ns, 1.0) / self.expected_ns)


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual pace and its scatter, as logarithms, from so many windows.

    `since` is when the first tree of the chain began to serve. With fewer than `WELL_KNOWN` windows the pace is at least
    the canary's.
    """

    log: float
    scatter: float
    windows: int
    since: datetime

    @property
    def is_well_known(self) -> bool:
        return self.windows >= WELL_KNOWN

    @property
    def percent(self) -> int:
        """The time in service over the canary's."""
        return round(100 * exp(self.log))

    def to_json(self) -> dict[str, Any]:
        return {
            "log_ppm": round(self.log * PPM),
            "scatter_ppm": round(self.scatter * PPM),
            "windows": self.windows,
            "since": self.since.isoformat(),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Usual:
        since = datetime.fromisoformat(told["since"])
        return cls(told["log_ppm"] / PPM, told["scatter_ppm"] / PPM, told["windows"], since)


def decode_ns(batch: float, times: Mapping[int, int]) -> float:
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


def prefill_ns(prompt_tokens: float, times: Mapping[int, int]) -> float:
    """Nanoseconds until the first token, on the line through the lengths of prompts that the canary clocked.

    ``times`` maps one or two lengths to nanoseconds. With one, a request takes as long as `BASE_TOKENS` of its prompt
    do, as routing takes it to be. The line never falls, and is never below zero.
    """
    (low, low_ns), (high, high_ns) = min(times.items()), max(times.items())
    if low == high:
        return high_ns * (prompt_tokens + BASE_TOKENS) / (high + BASE_TOKENS)
    token_ns = min(max(high_ns - low_ns, 0) / (high - low), high_ns / high)
    return high_ns + token_ns * (prompt_tokens - high)


def decode_pace(nodes: Sequence[TokenTime], times: Mapping[int, int]) -> Pace | None:
    """The pace of one window's tokens; None with fewer than MIN_TOKENS."""
    if sum(node.tokens for node in nodes) < MIN_TOKENS:
        return None
    expected = sum(node.tokens * decode_ns(node.batch, times) for node in nodes)
    return Pace(sum(node.decode_ms for node in nodes) * NS_PER_MS, expected)


def prefill_pace(
    nodes: Sequence[PromptTime], times: Mapping[int, int], decode_times: Mapping[int, int]
) -> Pace | None:
    """The pace of one window's prompts; None with fewer than MIN_TOKENS.

    The canary reads prompts on an idle node. In service each one also waits for about one step of the answers that
    are under way.
    """
    read = [(node, max(node.work_tokens - BASE_TOKENS * node.requests, 0)) for node in nodes if node.requests]
    if sum(tokens for _, tokens in read) < MIN_TOKENS:
        return None
    expected = sum(
        node.requests
        * (
            prefill_ns(tokens / node.requests, times)
            + min(node.batch, 1) * decode_ns(node.batch, decode_times)
        )
        for node, tokens in read
    )
    return Pace(sum(node.prefill_ms for node, _ in read) * NS_PER_MS, max(expected, 1.0))


def usual_of(windows: Sequence[Pace | None], since: datetime) -> Usual:
    """The usual pace by these windows of the tree before, oldest first: their median, each weighed by its work."""
    known = [window for window in windows if window is not None]
    count = round(_effective(known))
    middle = _median(known)
    if count < WELL_KNOWN:
        return Usual(max(middle, 0.0), max(_scatter(known), UNKNOWN_SCATTER), count, since)
    blocks = [_mean(known[start : start + BLOCK]) for start in range(0, len(known) - BLOCK + 1, BLOCK)]
    of_blocks = _deviation(blocks) * sqrt(BLOCK) if len(blocks) >= LEAST_BLOCKS else 0.0
    return Usual(middle, max(_scatter(known), of_blocks), count, since)


def inherited(own: Usual, before: Usual | None, drift: float) -> Usual:
    """The usual pace for a deployment: ``own`` is by the windows of the tree before, ``before`` held for that tree.

    The tree before may be slower in service than in its canary by the percentage that is allowed. If its pace were the
    usual one for the next tree, each tree of a chain could be slower by that much more. So the pace that was known
    before the first of them is passed on, for `INHERITED_FOR`. Where it is hardly known, the pace of a later tree only
    lowers it. ``drift`` is the logarithm of what the tree before took in this canary over what it took in its own.
    """
    if before is None or own.since - before.since > INHERITED_FOR:
        return own
    scatter = own.scatter if own.is_well_known else before.scatter
    passed_on = replace(before, log=before.log - drift, scatter=scatter)
    if before.is_well_known:
        return passed_on
    passed_on = replace(passed_on, log=max(passed_on.log, 0.0))
    if not own.is_well_known:
        return passed_on
    return replace(own, log=min(own.log, passed_on.log), since=before.since)


def drift_of(later: Mapping[int, int], earlier: Mapping[int, float]) -> float:
    """The logarithm of what one tree took in a later canary over an earlier one, from values at the same points."""
    return sum(log(later[at] / earlier[at]) for at in later) / len(later)


def stays_slow(
    windows: Sequence[Pace | None], *, usual: Usual, slower_percent: int, is_long: bool = False
) -> bool:
    """Whether the work of the last minutes took more than so many per cent longer than is usual.

    The mean of all windows, each weighed by its work, must be above the limit by `SURE` standard errors. In a short look
    of five minutes four of five windows must be above it, too: one bad moment is no reason, and one fast window is no
    excuse. In a long look the mean alone counts, so that a tree that is fast from time to time is found as well.
    """
    known = [window for window in windows if window is not None]
    if len(known) < (LONG_WINDOWS if is_long else SLOW_WINDOWS):
        return False
    limit = usual.log + log(1 + slower_percent / 100)
    if not is_long and sum(window.log > limit for window in known) < SLOW_PART * len(known):
        return False
    variance = max(usual.scatter, _scatter(known)) ** 2 / _effective(known)
    if usual.is_well_known:
        variance += pi / 2 * usual.scatter**2 / usual.windows  # of a median
    return _mean(known) > limit + SURE * sqrt(variance)


def percent_of(windows: Sequence[Pace | None]) -> int:
    """The time that all windows took, in per cent of what the canary found."""
    known = [window for window in windows if window is not None]
    return round(100 * exp(_mean(known)))


def _mean(windows: Sequence[Pace]) -> float:
    total = sum(window.expected_ns for window in windows)
    return sum(window.expected_ns * window.log for window in windows) / total


def _median(windows: Sequence[Pace]) -> float:
    half, below = sum(window.expected_ns for window in windows) / 2, 0.0
    for window in sorted(windows, key=lambda one: one.log):
        below += window.expected_ns
        if below >= half:
            return window.log
    return 0.0


def _effective(windows: Sequence[Pace]) -> float:
    """Windows that count, where some have more work than others."""
    squares = sum(window.expected_ns**2 for window in windows)
    return sum(window.expected_ns for window in windows) ** 2 / squares if squares else 0.0


def _scatter(windows: Sequence[Pace]) -> float:
    """Standard deviation of the windows' logarithms, each by its work."""
    count = _effective(windows)
    if count <= 1:
        return 0.0
    mean, total = _mean(windows), sum(window.expected_ns for window in windows)
    variance = sum(window.expected_ns * (window.log - mean) ** 2 for window in windows) / total
    return sqrt(variance * count / (count - 1))


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
