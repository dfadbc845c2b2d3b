"""Usage of a replayed request: hours of arrival, cache memory, nodes and their queues."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.replay.fleet import Fleet, Nodes, Served
from gainshare.capacity.replay.hours import drawn_times, hour_of
from gainshare.capacity.replay.usage import arrivals_by_hour, kv_byte_ms, usage_of
from gainshare.capacity.traces.arrivals import Rates, arrivals, hours_by_rate
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.ledger.pricing import Arrival

REQUEST = TraceRequest(0.0, 1000, 101)


@given(st.floats(0, 200_000), st.integers(0, 3000), st.sampled_from([0.02, 0.5, 7.0, 3600.0, 5000.0]))
def test_each_token_is_counted_in_the_hour_of_its_arrival(
    first_s: float, tokens: int, token_s: float
) -> None:
    counted = arrivals_by_hour(first_s, tokens, token_s)
    assert sum(arrival.tokens for arrival in counted) == tokens
    by_hand = [hour_of(first_s + index * token_s) for index in range(tokens)]
    by_rule = [arrival.hour for arrival in counted for _ in range(arrival.tokens)]
    differing = [index for index in range(tokens) if by_hand[index] != by_rule[index]]
    # A token whose arrival is an hour's end up to the rounding of floats may be in either of the two.
    assert all(
        (first_s + index * token_s) % 3600 < 1e-6 or (first_s + index * token_s) % 3600 > 3600 - 1e-6
        for index in differing
    )


def test_an_answer_that_passes_midnight_begins_a_new_day() -> None:
    assert arrivals_by_hour(24 * 3600 - 1.0, 150, 0.02) == (Arrival(23, 0, 50), Arrival(0, 0, 100))


def test_memory_is_held_from_the_start_on_a_node_to_the_last_token() -> None:
    served = Served(cached_tokens=0, queued_s=3.0, first_token_s=5.0, token_s=0.1)
    # 2 s of prefill and 10 s of decode with 1000 tokens of prompt; the answer's tokens are held 5 s on average
    assert kv_byte_ms(REQUEST, served, 10) == (1000 * 12_000 + 101 * 5_000) * 10
    assert kv_byte_ms(REQUEST, served, 0) == 0
    assert kv_byte_ms(TraceRequest(0.0, 1000, 0), served, 10) == 1000 * 2_000 * 10


def test_usage_has_the_hour_of_the_first_token() -> None:
    served = Served(cached_tokens=512, queued_s=3.0, first_token_s=5.0, token_s=0.1)
    usage = usage_of(REQUEST, served, at_s=3600 * 5 - 4.0, bytes_per_token=10)
    assert (usage.cached_tokens, usage.fresh_tokens, usage.output_tokens) == (512, 488, 101)
    assert usage.prompt_hour == 5
    assert usage.arrivals == (Arrival(5, 0, 101),)


def test_a_request_waits_for_those_before_it_on_its_node() -> None:
    fleet = Fleet(Nodes(number=1, prefill_tokens_per_s=1000.0), 0)
    assert fleet.serve(TraceRequest(0.0, 2000, 5)).queued_s == 0
    second = fleet.serve(TraceRequest(0.5, 1000, 5))
    assert (second.queued_s, second.first_token_s) == (1.5, 2.5)
    assert fleet.serve(TraceRequest(10.0, 10, 5)).queued_s == 0


def test_a_request_goes_where_its_first_token_is_expected_first() -> None:
    fleet = Fleet(Nodes(number=2, prefill_tokens_per_s=1000.0), 512)
    long = TraceRequest(0.0, 2000, 1, (1, 2, 3))
    assert fleet.serve(long).cached_tokens == 0
    assert fleet.serve(TraceRequest(0.1, 1600, 1, (7, 8, 9))).queued_s == 0, "the other node is free"
    again = fleet.serve(TraceRequest(2.1, 2000, 1, (1, 2, 3)))
    assert again.cached_tokens == 1536, "the node that has the prefix"
    burst = [fleet.serve(TraceRequest(2.2, 2000, 1, (1, 2, 3))) for _ in range(8)]
    assert any(one.cached_tokens == 0 for one in burst), "unless its queue is longer than computing anew"


def test_hours_follow_the_rates() -> None:
    rates = Rates(1800.0, tuple(Random(1).random() for _ in range(96)))
    draw = drawn_times(rates, seed=3)
    hours = [0] * 24
    for _ in range(40_000):
        hours[hour_of(draw(REQUEST))] += 1
    for drawn, expected in zip(hours, hours_by_rate(rates), strict=True):
        assert drawn / 40_000 == pytest.approx(expected, abs=0.006)


def test_arrivals_are_as_many_as_the_rates_say() -> None:
    rates = Rates(10.0, (1.0, 0.0, 40.0))
    found = list(arrivals(rates, random=Random(2)))
    assert len(found) == pytest.approx(410, rel=0.15)
    assert not any(10 <= at < 20 for at in found)
    assert found == sorted(found)
    with pytest.raises(ValueError, match="coefficient of variation"):
        next(arrivals(rates, random=Random(2), cv=0))
    with pytest.raises(ValueError, match="rates must be finite"):
        Rates(10.0, (1.0, float("nan")))
