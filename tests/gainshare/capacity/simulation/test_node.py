"""A simulated node against hand-worked times, and against a naive simulation that follows every single step of time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.observed import Objective
from gainshare.capacity.simulation.node import PrefixCache
from gainshare.capacity.simulation.pool import Setting, simulate
from tests.gainshare.capacity.simulation.simulated_worlds import RATES, node_device, workload

Rows = list[tuple[float, int, int]]


def times(rows: Rows, slots: int = 4) -> tuple[list[float], list[float]]:
    """First tokens and times for each token of one node."""
    setting = Setting([node_device(slots=slots)], Objective(), {"standard": 1})
    found = simulate(workload(rows), fixed_at(1), setting, name="one node")
    return found.first_token_s.tolist(), found.token_s.tolist()


def test_a_request_alone_takes_its_prompt_and_a_step_for_each_token() -> None:
    first, token = times([(5.0, 600, 11)])
    assert first == [pytest.approx(600 * 0.0005 + 600**2 / 2 * 1e-7 + 3 * 0.004)]  # three steps of 256 tokens
    assert token == [pytest.approx(0.004 + 0.002)]


def test_answers_in_progress_share_the_steps() -> None:
    """Two short prompts at once; both answers then get a token every 8 ms."""
    first, token = times([(0.0, 10, 101), (0.0, 10, 101)])
    read = 10 * 0.0005 + 50e-7
    assert first == [pytest.approx(read + 0.004), pytest.approx(2 * read + 0.004 + 0.006)]
    # The first one got one token while the other's prompt was read, and ends one step of 8 ms before it.
    assert token[0] == pytest.approx((read + 0.006 + 99 * 0.008) / 100)
    assert token[1] == pytest.approx((99 * 0.008 + 0.006) / 100)


def test_a_long_prompt_holds_up_the_answers_of_others() -> None:
    alone = times([(0.0, 10, 201)])[1][0]
    beside = times([(0.0, 10, 201), (0.5, 4000, 1)])[1][0]
    assert beside * 200 - alone * 200 == pytest.approx(
        4000 * 0.0005 + 0.8 + 16 * 0.006 - 16 * 0.006, rel=1e-6
    )


def test_an_answer_that_ends_while_a_prompt_is_read_ends_at_its_own_step() -> None:
    """A prompt of 4,000 tokens is read in 16 steps; an answer with four tokens left gets them at the first four."""
    read = 4000 * 0.0005 + 0.8
    short = times([(0.0, 10, 5), (0.001, 4000, 1)])[1][0]
    assert short * 4 == pytest.approx(4 * (read / 16 + 0.006), rel=1e-6)
    long = times([(0.0, 10, 41), (0.001, 4000, 1)])[1][0]
    assert long * 40 == pytest.approx(read + 16 * 0.006 + 24 * 0.006, rel=1e-6)


def naive(rows: Rows, slots: int) -> tuple[list[float], list[float]]:
    """The same node, one engine's phase after the other, with every answer's tokens counted at each."""
    now, waiting, reading = 0.0, list(range(len(rows))), None
    prompts: list[int] = []
    left: dict[int, float] = {}
    first, last = [math.nan] * len(rows), [math.nan] * len(rows)
    used = 0
    while waiting or prompts or left or reading:
        while waiting and rows[waiting[0]][0] <= now + 1e-12 and used < slots:
            prompts.append(waiting.pop(0))
            used += 1
        if reading is None and prompts:
            request = prompts.pop(0)
            tokens = rows[request][1]
            steps = -(-tokens // 256)
            compute = tokens * 0.0005 + tokens**2 / 2 * 1e-7
            reading = (request, steps, now, now + compute + steps * (0.004 + len(left) * 0.002))
        free = used < slots
        arrival = rows[waiting[0]][0] if waiting and free else math.inf
        if reading is not None:
            if arrival < reading[3]:
                now = arrival
                continue
            request, steps, since, now = reading
            reading = None
            first[request] = now - rows[request][0]
            for one in left:
                left[one] -= steps
                if left[one] <= 1e-6:
                    last[one] = since + math.ceil(left[one] + steps - 1e-6) * (now - since) / steps
            left[request] = rows[request][2] - 1
        elif left:
            token_s = 0.004 + len(left) * 0.002
            end = now + min(left.values()) * token_s
            moment = min(end, arrival)
            for one in left:
                left[one] -= (moment - now) / token_s
            now = moment
        else:
            now = arrival
        for one in [one for one, tokens in left.items() if tokens <= 1e-6]:
            if math.isnan(last[one]):
                last[one] = now
            del left[one]
            used -= 1
    token = [(last[n] - first[n] - rows[n][0]) / (rows[n][2] - 1) for n in range(len(rows)) if rows[n][2] > 1]
    return first, token


@settings(deadline=None, max_examples=150)
@given(
    gaps=st.lists(
        st.tuples(st.floats(0.001, 2.0), st.integers(1, 1500), st.integers(1, 120)), min_size=1, max_size=12
    ),
    slots=st.integers(1, 5),
)
def test_events_give_what_following_every_phase_gives(gaps: list[tuple[float, int, int]], slots: int) -> None:
    at_s, rows = 0.0, []
    for gap, prompt, output in gaps:
        at_s += gap
        rows.append((at_s, prompt, output))
    found, expected = times(rows, slots), naive(rows, slots)
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    assert found[1] == pytest.approx(expected[1], abs=1e-4)


def test_a_cache_keeps_what_was_used_last_and_counts_whole_beginnings() -> None:
    cache = PrefixCache(4)
    cache.keep((1, 2, 3))
    assert cache.hits((1, 2, 9, 3)) == 2
    assert cache.hits((2, 3)) == 2  # blocks stand for all before them: the trace's hashes differ otherwise
    cache.keep((7, 8))
    assert cache.hits((1, 2, 3)) == 2  # the end of the oldest prefix went first
    assert len(cache.blocks) == 4
    cache.keep((1, 2))
    cache.keep((5, 6))
    assert cache.hits((1, 2)) == 2
    assert cache.hits((7, 8)) == 0


def test_rates_of_a_faster_device_are_shorter_times() -> None:
    fast = RATES.faster(4)
    assert fast.token_s(3) == RATES.token_s(3) / 4
    assert fast.prompt_s(700) == pytest.approx(RATES.prompt_s(700) / 4)
    assert fast.step_tokens == RATES.step_tokens


def test_cached_tokens_are_not_computed_but_looked_back_at() -> None:
    whole, rest = RATES.prompt_s(1000), RATES.prompt_s(1000, 600)
    assert rest == pytest.approx(whole - RATES.prompt_s(600))
