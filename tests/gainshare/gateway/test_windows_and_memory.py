"""The meter counts tokens by the hour of their arrival, and memory by its own clock. No database, no network."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.gateway.arrivals import NS_PER_HOUR, ArrivalClock, Moment
from gainshare.gateway.cache_memory import CacheShape
from gainshare.gateway.metering import MOST_BYTE_MS, Meter, Metered
from gainshare.gateway.services import price_bill
from gainshare.ledger.pricing import Arrival, PriceTable, upper_bound

MS = 1_000_000
PROMPT = 100
SHAPE = CacheShape(bytes_per_token=1000)


def chunk(tokens: int, *, answer: int = 0, end: str | None = None, **engine: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": answer, "delta": {"content": "x"}, "finish_reason": end}],
        "usage": {"prompt_tokens": PROMPT, "completion_tokens": tokens, "gainshare": engine},
    }


def meter(**fields: Any) -> Meter:
    return Meter(prompt_tokens=PROMPT, max_tokens=10**6, **{"cache": SHAPE, **fields})


# -- windows ----------------------------------------------------------------------------------------


def test_the_prompt_is_of_the_hour_of_its_first_token_and_each_token_of_its_own() -> None:
    one = meter()
    one.see(chunk(0), Moment(22, 0))  # its role; no token yet
    one.see(chunk(2), Moment(23, 1))
    one.see(chunk(3), Moment(23, 2))
    one.see(chunk(7), Moment(0, 3))
    assert one.metered.prompt_hour == 23
    assert one.metered.arrivals == (Arrival(23, 0, 3), Arrival(0, 0, 4))


def test_answers_are_counted_apart() -> None:
    one = meter(n_answers=2)
    for at, (tokens, answer) in enumerate([(1, 0), (2, 1), (4, 0), (5, 1)]):
        one.see(chunk(tokens, answer=answer), Moment(9 + at // 3, at))
    assert one.metered.arrivals == (Arrival(9, 0, 3), Arrival(9, 1, 1), Arrival(10, 1, 1))


def test_tokens_of_no_known_hour_are_in_no_count() -> None:
    one = meter()
    one.see(chunk(2), Moment(None, 0))
    one.see(chunk(5), Moment(3, 1))
    assert (one.metered.prompt_hour, one.metered.arrivals) == (None, (Arrival(3, 0, 3),))


def test_a_stream_held_over_midnight_pays_for_each_side() -> None:
    price = PriceTable(0, 1_000_000, 10_000_000, off_peak_windows=[[0, 6, 500_000]])
    one = meter()
    one.see(chunk(10), Moment(23, 0))
    one.see(chunk(30), Moment(0, 1))
    assert price_bill(one.metered, price).total == 100 + 100 + 200 // 2


class Clocks:
    """The system's clock and the monotonic one, each moved by hand."""

    def __init__(self, hour: int, minute: int = 0) -> None:
        self.wall_ns = (hour * 60 + minute) * 60 * 10**9
        self.monotonic_ns = 5

    def clock(self) -> ArrivalClock:
        return ArrivalClock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_a_clock_that_steps_moves_no_token_to_another_hour() -> None:
    clocks = Clocks(23, 59)
    one = meter(clock=clocks.clock())
    one.see(chunk(1, queued_ms=0))
    clocks.wall_ns -= 12 * NS_PER_HOUR  # someone sets it back
    clocks.monotonic_ns += 30 * 10**9
    one.see(chunk(2, queued_ms=0))
    clocks.monotonic_ns += 40 * 10**9
    one.see(chunk(3, queued_ms=0))
    assert one.metered.arrivals == (Arrival(23, 0, 2), Arrival(0, 0, 1))
    assert one.metered.kv_byte_ms == 30_000 * 101 * 1000 + 40_000 * 102 * 1000


@given(st.lists(st.integers(-(10**13), 10**13), max_size=20))
def test_no_step_of_any_clock_makes_time_run_backwards(steps: list[int]) -> None:
    clocks = Clocks(12)
    clock = clocks.clock()
    before = clock.now()
    for step in steps:
        clocks.wall_ns -= step
        clocks.monotonic_ns += step
        now = clock.now()
        assert now.ns >= before.ns and now.hour == (12 * NS_PER_HOUR + now.ns) // NS_PER_HOUR % 24
        before = now


# -- memory -----------------------------------------------------------------------------------------


def test_memory_is_tokens_times_bytes_times_the_gateways_clock() -> None:
    one = meter()
    one.see(chunk(1, queued_ms=0), Moment(0, 10 * MS))  # 100 tokens for 10 ms
    one.see(chunk(4, queued_ms=0), Moment(0, 15 * MS))  # 101 for 5 ms
    assert one.metered.kv_byte_ms == (100 * 10 + 101 * 5) * 1000
    one.see(chunk(4, end="stop", queued_ms=0), Moment(0, 17 * MS))
    assert one.metered.kv_byte_ms == (100 * 10 + 101 * 5 + 104 * 2) * 1000


def test_waiting_and_eviction_as_the_node_counted_them_hold_nothing() -> None:
    one = meter()
    one.see(chunk(1, queued_ms=7), Moment(0, 10 * MS))
    one.see(chunk(2, queued_ms=7), Moment(0, 20 * MS))
    one.see(chunk(3, queued_ms=16), Moment(0, 30 * MS))  # 9 ms of it evicted
    assert one.metered.kv_byte_ms == (100 * 3 + 101 * 10 + 102 * 1) * 1000


def test_a_node_that_counts_no_waiting_holds_from_its_first_token() -> None:
    one = meter()
    one.see(chunk(0), Moment(0, 10 * MS))
    one.see(chunk(1), Moment(0, 20 * MS))
    one.see(chunk(2), Moment(0, 25 * MS))
    assert one.metered.kv_byte_ms == 101 * 5 * 1000


LIES: list[dict[str, Any]] = [
    {"kv_byte_ms": 10**30},
    {"kv_byte_ms": -(10**30)},
    {"kv_byte_ms": 1e300, "decode_ms": -1e300},
    {"device_ms": 10**40, "prefill_ms": -1},
    {"kv_byte_ms": "many"},
]


@pytest.mark.parametrize("lie", LIES, ids=repr)
def test_figures_that_are_shown_decide_nothing(lie: dict[str, Any]) -> None:
    honest, liar = meter(), meter()
    for tokens in range(1, 5):
        honest.see(chunk(tokens, queued_ms=1), Moment(0, tokens * MS))
        liar.see(chunk(tokens, queued_ms=1, **lie), Moment(0, tokens * MS))
    assert liar.metered.kv_byte_ms == honest.metered.kv_byte_ms > 0


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 10**10),
            st.integers(0, 5),
            st.none() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=2) | st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_claimed_wait_leaves_what_the_clock_bounds(steps: list[tuple[int, int, Any]]) -> None:
    """From zero to all of the gateway's time, and never less than before."""
    one = meter()
    tokens = at_ns = most = before = 0
    for passed_ns, n_new, queued in steps:
        most += passed_ns * (PROMPT + tokens)
        at_ns, tokens = at_ns + passed_ns, tokens + n_new
        one.see(chunk(tokens, queued_ms=queued), Moment(0, at_ns))
        assert before <= one.metered.kv_byte_ms <= most * 1000 // MS
        before = one.metered.kv_byte_ms


def test_a_window_and_an_unknown_model_bound_what_is_held() -> None:
    windowed, unknown = meter(cache=CacheShape(1000, window=60)), Meter(prompt_tokens=PROMPT, max_tokens=9)
    for one in (windowed, unknown):
        one.see(chunk(1, queued_ms=0), Moment(0, 10 * MS))
    assert windowed.metered.kv_byte_ms == 60 * 10 * 1000
    assert unknown.metered.kv_byte_ms == 0


def test_memory_of_any_size_fits_its_column() -> None:
    one = meter(cache=CacheShape(2**30))
    one.see(chunk(1, queued_ms=0), Moment(0, 10**18))
    assert one.metered.kv_byte_ms == MOST_BYTE_MS


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20), st.none() | st.integers(0, 23), st.integers(0, 10**12)), max_size=8
    ),
    above=st.integers(0, 200),
)
def test_no_stream_costs_more_than_was_held(steps: list[tuple[int, int | None, int]], above: int) -> None:
    price = PriceTable(
        100_000,
        900_000,
        3_100_000,
        long_above=above,
        long_fresh_input=70_000,
        long_output=300_000,
        off_peak_windows=[[22, 6, 333_333]],
        memory_tiers=[[10**6, 40_000], [10**12, 900_000]],
        memory_share_ppm=250_000,
    )
    one = meter()
    tokens = at_ns = 0
    total = 0
    for n_new, hour, passed_ns in steps:
        tokens, at_ns = tokens + n_new, at_ns + passed_ns
        one.see(chunk(tokens, queued_ms=0), Moment(hour, at_ns))
        now = price_bill(one.metered, price).total
        assert total <= now <= upper_bound(PROMPT, tokens, price)
        total = now if tokens else 0  # the prompt's hour is that of the first token


def test_nothing_delivered_costs_nothing_whatever_was_held() -> None:
    price = PriceTable(1, 1, 1, memory_tiers=[[0, 10**9]], memory_share_ppm=1_000_000)
    assert price_bill(Metered(engine={"device_ms": 5}), price).total == 0
