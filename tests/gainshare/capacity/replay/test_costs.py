"""What users pay for a trace: properties that hold for any trace, and known cases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.replay.costs import replay
from gainshare.capacity.replay.fleet import Nodes
from gainshare.capacity.replay.hours import drawn_times
from gainshare.capacity.replay.tariffs import BOOK, PARTS, flat, steps
from gainshare.capacity.traces.arrivals import Rates
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.capacity.traces.statistics import statistics
from gainshare.ledger.pricing import PriceTable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
UNIT = 512
NO_CACHE = Nodes(number=2, cache_tokens=0)
UNBOUNDED = Nodes(number=1, cache_tokens=None)


@dataclass(frozen=True)
class ListedTrace:
    requests: Sequence[TraceRequest]
    block_tokens: int = UNIT
    name: str = "listed"
    digest: str = "0" * 64

    def __iter__(self) -> Iterator[TraceRequest]:
        return iter(self.requests)


@st.composite
def traces(draw: st.DrawFn) -> ListedTrace:
    """Requests of three accounts with shared prefixes, some at equal times; no prompt ends with a whole block."""
    paths = draw(st.lists(st.lists(st.integers(0, 2), max_size=4).map(tuple), min_size=1, max_size=25))
    numbers: dict[tuple[int, ...], int] = {}
    requests = []
    at = 0.0
    for path in paths:
        at += draw(st.sampled_from([0.0, 0.0, 7.5, 4000.0]))
        blocks = tuple(numbers.setdefault(path[: end + 1], len(numbers)) for end in range(len(path)))
        prompt = len(path) * UNIT + draw(st.integers(1, UNIT - 1))
        output = draw(st.integers(0, 300))
        requests.append(TraceRequest(at, prompt, output, blocks, draw(st.integers(0, 2))))
    return ListedTrace(requests)


prices = st.integers(0, 10**7)
books = st.builds(
    PriceTable,
    cached_input=prices,
    fresh_input=prices,
    output=prices,
    long_above=st.integers(0, 3000),
    long_cached_input=prices,
    long_fresh_input=prices,
    long_output=prices,
    off_peak_windows=st.sampled_from([(), ((0, 1, 0),), ((22, 3, 500_000), (4, 9, 250_000))]),
    memory_tiers=st.sampled_from([(), ((0, 5),), ((10**9, 1), (10**12, 10**6))]),
    memory_share_ppm=st.integers(0, 10**6),
)
nodes = st.builds(
    Nodes,
    number=st.integers(1, 3),
    cache_tokens=st.sampled_from([0, 700, 2000, 10_000, None]),
    prefill_tokens_per_s=st.sampled_from([10.0, 10_000.0]),
    decode_tokens_per_s=st.sampled_from([0.05, 50.0]),
    bytes_per_token=st.sampled_from([0, 131_072]),
)


@settings(max_examples=40)
@given(traces(), prices, prices, prices, nodes)
def test_the_flat_tariff_is_the_bill_of_neutral_prices_without_a_cache(
    trace: ListedTrace, cached: int, fresh: int, output: int, stated: Nodes
) -> None:
    """Bit for bit, and the sum of two floored products of each request."""
    book = PriceTable(cached_input=cached, fresh_input=fresh, output=output)
    costs = replay(trace, nodes=replace(stated, cache_tokens=0), book=book)
    by_hand = sum(
        one.prompt_tokens * fresh // 10**6 + one.output_tokens * output // 10**6 for one in trace.requests
    )
    assert costs.flat == costs.total == by_hand
    assert costs.cached_tokens == 0


@settings(max_examples=40)
@given(traces(), books, nodes)
def test_no_cost_is_negative_and_the_parts_add_up(
    trace: ListedTrace, book: PriceTable, stated: Nodes
) -> None:
    costs = replay(trace, nodes=stated, book=book)
    assert all(cost >= 0 for cost in costs.by_step)
    assert sum(costs.by_item.values()) == costs.total
    assert all(amount >= 0 for amount in costs.by_item.values())
    assert costs.change == pytest.approx(sum(costs.changes.values()))
    assert costs.change >= -1
    assert sum(costs.tokens_by_hour) == costs.prompt_tokens + costs.output_tokens
    assert replay(trace, nodes=stated, book=book, by_part=False).by_step == (costs.flat, costs.total)


@settings(max_examples=40)
@given(traces(), books, nodes)
def test_a_discount_never_adds_and_a_surcharge_never_saves(
    trace: ListedTrace, book: PriceTable, stated: Nodes
) -> None:
    fair = replace(book, cached_input=min(book.cached_input, book.fresh_input))
    changes = replay(trace, nodes=stated, book=fair).changes
    assert list(changes) == list(PARTS)
    assert changes["cache"] <= 0 <= changes["memory"]
    assert changes["off-peak"] <= 0


@settings(max_examples=40)
@given(traces(), st.randoms(use_true_random=False))
def test_the_order_of_requests_at_one_time_changes_nothing(trace: ListedTrace, random: Random) -> None:
    """On one node with a cache without bound: who computes a shared prefix changes, what is computed does not.

    The prices are whole micro-credits a token, so that no rounding depends on who pays.
    """
    shuffled = list(trace.requests)
    random.shuffle(shuffled)
    again = ListedTrace(sorted(shuffled, key=lambda one: one.at_s))
    book = PriceTable(cached_input=1_000_000, fresh_input=4_000_000, output=16_000_000)
    first, second = (replay(each, nodes=UNBOUNDED, book=book) for each in (trace, again))
    assert first.by_step == second.by_step
    assert first.cached_tokens == second.cached_tokens


@settings(max_examples=40)
@given(traces(), st.randoms(use_true_random=False), books)
def test_without_cache_and_queue_the_order_changes_nothing_at_any_prices(
    trace: ListedTrace, random: Random, book: PriceTable
) -> None:
    shuffled = list(trace.requests)
    random.shuffle(shuffled)
    again = ListedTrace(sorted(shuffled, key=lambda one: one.at_s))
    enough = replace(NO_CACHE, number=len(shuffled))
    first, second = (replay(each, nodes=enough, book=book) for each in (trace, again))
    assert (first.by_step, first.by_item) == (second.by_step, second.by_item)


@settings(max_examples=40)
@given(traces(), nodes)
def test_no_cache_hits_more_than_the_trace_reuses(trace: ListedTrace, stated: Nodes) -> None:
    reusable = statistics(trace).reusable_share
    costs = replay(trace, nodes=stated, book=BOOK)
    unbounded = replay(trace, nodes=UNBOUNDED, book=BOOK)
    assert costs.hit_share <= unbounded.hit_share + 1e-12
    assert unbounded.hit_share == pytest.approx(reusable), "one node without bound finds all of it"


@settings(max_examples=40)
@given(traces(), nodes)
def test_accounts_of_their_own_share_nothing(trace: ListedTrace, stated: Nodes) -> None:
    apart = ListedTrace([replace(one, account=number) for number, one in enumerate(trace.requests)])
    costs = replay(apart, nodes=stated, book=BOOK)
    assert costs.cached_tokens == 0
    assert costs.changes["cache"] == 0


def test_a_request_is_billed_as_by_hand() -> None:
    """40,000 tokens of which 39,936 are cached, at 2:59:59 UTC, with an answer of 200 tokens that passes 3:00."""
    first = TraceRequest(0.0, 40_000, 0, tuple(range(78)))
    second = TraceRequest(10_799.0, 40_000, 200, tuple(range(78)))
    book = replace(BOOK, off_peak_windows=((3, 10, 500_000),))
    costs = replay(ListedTrace([first, second]), nodes=Nodes(number=1), book=book)
    # first token at 10,799 + 64/10,000 s; 50 tokens/s: 50 tokens before 3:00, 150 at half price after it
    tokens_first = 40_000 * 4 + 7_232 * 4
    cached = int(39_936 * 0.4)
    long_cached = int((39_936 - 32_768) * 0.4)
    output, long_output = 50 * 16 + 150 * 8, 50 * 8 + 150 * 4
    tokens_second = cached + 64 * 4 + output + long_cached + 64 * 4 + long_output
    held = 40_000 * (0.0064 + 199 / 50) + 200 * 199 / 2 / 50
    memory = int((held * 131_072 / 1e9 - 20) * 100 / 1e6 * 1e6) if held * 131_072 / 1e9 > 20 else 0
    memory_first = int((40_000 * 4 * 131_072 / 1e9 - 20) * 100)
    assert costs.by_item["output"] == output
    assert costs.by_item["long_output"] == long_output
    assert costs.by_item["cached_input"] == cached
    assert costs.by_item["memory"] == memory_first + min(memory, tokens_second // 20)
    assert costs.total - costs.by_item["memory"] == tokens_first + tokens_second
    assert costs.cached_tokens == 39_936


def test_the_steps_end_with_the_book_itself() -> None:
    tariffs = steps(BOOK)
    assert tariffs[0] == flat(BOOK) == PriceTable(4_000_000, 4_000_000, 16_000_000)
    assert tariffs[-1] == BOOK
    assert len(tariffs) == len(PARTS) + 1


def test_drawn_hours_are_the_same_for_each_cache_and_change_with_the_seed() -> None:
    trace = generate(requests=400, days=0.05)
    rates = Rates(3600.0, (0.0,) * 2 + (1.0,) * 8 + (3.0,) * 14)
    one, two = (
        replay(trace, nodes=stated, book=BOOK, instant=drawn_times(rates, 1))
        for stated in (NO_CACHE, Nodes())
    )
    assert one.tokens_by_hour == two.tokens_by_hour
    other = replay(trace, nodes=NO_CACHE, book=BOOK, instant=drawn_times(rates, 2))
    assert other.tokens_by_hour != one.tokens_by_hour
    assert one.tokens_by_hour[0] == 0
    assert sum(one.tokens_by_hour[2:10]) / sum(one.tokens_by_hour) == pytest.approx(8 / 50, abs=0.06)


def test_the_same_inputs_give_the_same_figures() -> None:
    trace = generate(requests=300)
    assert replay(trace, nodes=Nodes(), book=BOOK) == replay(trace, nodes=Nodes(), book=BOOK)


def test_a_trace_at_free_prices_costs_nothing() -> None:
    costs = replay(generate(requests=50), nodes=Nodes(), book=PriceTable(0, 0, 0))
    assert (costs.flat, costs.total, costs.change) == (0, 0, 0.0)


@settings(max_examples=20)
@given(st.floats(0.1, 50), st.integers(0, 2000))
def test_nodes_that_cannot_be_are_refused(rate: float, tokens: int) -> None:
    for wrong in ({"number": 0}, {"prefill_tokens_per_s": 0.0}, {"decode_tokens_per_s": float("inf")}):
        with pytest.raises(ValueError, match="there must be a node"):
            Nodes(**{"cache_tokens": tokens, "decode_tokens_per_s": rate} | wrong)  # type: ignore[arg-type]


def test_replays_load_no_django_and_no_torch() -> None:
    code = (
        "import sys, gainshare.capacity.replay.run, gainshare.capacity.replay.plot, gainshare.capacity.traces.formats;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'django', 'rest_framework', 'torch'}))"
    )
    here = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=here)
    assert done.stdout.strip() == "[]"
