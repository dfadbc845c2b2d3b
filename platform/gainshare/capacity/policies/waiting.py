"""How long requests wait for a slot, by queueing theory: many slots, one queue, bursty arrivals, times that differ."""

from __future__ import annotations

import math
from functools import lru_cache

LATE_SHARE = 0.01  # of a 99th percentile
#: Without a queue of their own, the longest waits rarely meet the longest prompts.
USUAL_PROMPT = 0.4


@lru_cache(maxsize=65_536)
def all_busy(slots: int, offered: float) -> float:
    """Probability that an arrival finds all slots used (Erlang's C formula); ``offered`` is the load in slots."""
    if offered >= slots:
        return 1.0
    blocked = 1.0
    for used in range(1, slots + 1):
        blocked = offered * blocked / (used + offered * blocked)
    return blocked / (1 - (offered / slots) * (1 - blocked))


def queued_share(rate: float, slots: int, ends_per_s: float, dispersion: float = 1.0) -> float:
    """Share of requests that find all ``slots`` used. Bursts come together, so more of them wait than of a Poisson process."""
    if rate <= 0:
        return 0.0
    if slots < 1 or rate >= ends_per_s:
        return 1.0
    offered = round(rate * slots / ends_per_s, 3)
    return math.pow(all_busy(slots, offered), 2 / (max(1.0, dispersion) + 1))


def wait_p99_s(
    rate: float, slots: int, ends_per_s: float, dispersion: float = 1.0, spread: float = 1.0
) -> float:
    """99th percentile of the wait for a slot; inf where more comes than can end.

    ``rate`` requests come in a second, ``ends_per_s`` end when all ``slots`` are used. ``dispersion`` is the variance of
    the arrivals in a step over their mean, 1 for a Poisson process, and ``spread`` the variance of the times that
    requests take over the square of their mean, 1 for exponential ones (Allen and Cunneen's approximation, which for one
    slot and Poisson arrivals is Pollaczek and Khinchine's mean; an exponential tail).
    """
    if rate <= 0:
        return 0.0
    if slots < 1 or rate >= ends_per_s:
        return math.inf
    share = queued_share(rate, slots, ends_per_s, dispersion)
    if share <= LATE_SHARE:
        return 0.0
    return math.log(share / LATE_SHARE) / (ends_per_s - rate) * (max(1.0, dispersion) + spread) / 2


def first_token_p99_s(prompt_p99_s: float, wait_s: float) -> float:
    """99th percentile of the time to the first token, from those of the prompt alone and of the wait."""
    return max(prompt_p99_s, wait_s + USUAL_PROMPT * prompt_p99_s)
