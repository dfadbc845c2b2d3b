"""Waiting by queueing theory, against known values and against a simulated queue."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.policies.waiting import LATE_SHARE, all_busy, queued_share, wait_p99_s

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("slots", "offered", "probability"),
    [(1, 0.3, 0.3), (1, 0.9, 0.9), (2, 1.0, 1 / 3), (5, 4.0, 0.55411), (10, 8.0, 0.40918), (3, 3.0, 1.0)],
)
def test_erlangs_formula(slots: int, offered: float, probability: float) -> None:
    assert all_busy(slots, offered) == pytest.approx(probability, abs=2e-5)


def test_one_slot_is_the_textbooks_queue() -> None:
    """M/M/1: P(wait > t) = rho exp(-(mu - lambda) t)."""
    assert wait_p99_s(0.8, 1, 1.0) == pytest.approx(math.log(0.8 / 0.01) / 0.2, rel=1e-3)


def test_more_than_ends_waits_without_end_and_nothing_waits_not_at_all() -> None:
    assert wait_p99_s(2.0, 8, 2.0) == math.inf
    assert wait_p99_s(1.0, 0, 0.0) == math.inf
    assert wait_p99_s(0.0, 0, 0.0) == 0.0
    assert wait_p99_s(0.001, 40, 10.0) == 0.0


@given(rate=st.floats(0.1, 3.9), slots=st.integers(1, 40), dispersion=st.floats(1, 20))
def test_more_slots_and_fewer_requests_never_wait_longer(rate: float, slots: int, dispersion: float) -> None:
    here = wait_p99_s(rate, slots, slots / 4, dispersion)
    assert wait_p99_s(rate, slots + 1, (slots + 1) / 4, dispersion) <= here
    assert wait_p99_s(rate * 0.9, slots, slots / 4, dispersion) <= here
    assert wait_p99_s(rate, slots, slots / 4, dispersion + 1) >= here * 0.999


@pytest.mark.parametrize(("slots", "load"), [(4, 0.7), (8, 0.75), (16, 0.85)])
def test_it_is_near_a_simulated_queue(slots: int, load: float) -> None:
    """Poisson arrivals, exponential answers: within a tenth."""
    chance = random.Random(7)
    free = [0.0] * slots
    at, waits = 0.0, []
    for _ in range(400_000):
        at += chance.expovariate(load * slots)
        begin = max(at, heapq.heappop(free))
        waits.append(begin - at)
        heapq.heappush(free, begin + chance.expovariate(1.0))
    waits.sort()
    assert wait_p99_s(load * slots, slots, slots) == pytest.approx(waits[int(0.99 * len(waits))], rel=0.1)


def test_one_slot_with_any_times_has_pollaczek_and_khinchines_mean_wait() -> None:
    """M/G/1: the mean wait is rho s (1 + cv2) / (2 (1 - rho)); an exponential tail begins with the share that waits."""
    rate, service_s, spread = 0.5, 1.0, 7.0
    mean_s = rate * service_s * service_s * (1 + spread) / (2 * (1 - rate))
    tail_s = wait_p99_s(rate, 1, 1 / service_s, spread=spread) / math.log(0.5 / LATE_SHARE)
    assert queued_share(rate, 1, 1.0) * tail_s == pytest.approx(mean_s)


@given(rate=st.floats(0.1, 3.9), slots=st.integers(1, 40), spread=st.floats(0, 30))
def test_times_that_differ_more_never_make_waits_shorter(rate: float, slots: int, spread: float) -> None:
    here = wait_p99_s(rate, slots, slots / 4, spread=spread)
    assert wait_p99_s(rate, slots, slots / 4, spread=spread + 1) >= here


@pytest.mark.parametrize(("slots", "load"), [(4, 0.6), (9, 0.7)])
def test_long_times_among_short_ones_are_near_a_simulated_queue(slots: int, load: float) -> None:
    """One in twenty takes 30 times as long (a spread of 9.5): within a third, where one spread for all is off by far."""
    chance = random.Random(3)
    mean_s = 0.95 * 1 + 0.05 * 30
    spread = (0.95 * 1 + 0.05 * 900) / mean_s**2 - 1
    free = [0.0] * slots
    at, waits = 0.0, []
    for _ in range(300_000):
        at += chance.expovariate(load * slots / mean_s)
        begin = max(at, heapq.heappop(free))
        waits.append(begin - at)
        heapq.heappush(free, begin + (30.0 if chance.random() < 0.05 else 1.0))
    waits.sort()
    real = waits[int(0.99 * len(waits))]
    rate, ends = load * slots / mean_s, slots / mean_s
    assert wait_p99_s(rate, slots, ends, spread=spread) == pytest.approx(real, rel=0.35)
    assert wait_p99_s(rate, slots, ends) < 0.5 * real
    assert queued_share(rate, slots, ends) == pytest.approx(sum(w > 0 for w in waits) / len(waits), rel=0.35)
