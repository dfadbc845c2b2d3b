"""Estimates of the time to first token, and the choice among nodes. Pure."""

import math
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.routing.choice import costs, preference
from gainshare.capacity.routing.estimates import (
    BASE_TOKENS,
    FASTER_THAN_CLASS,
    LEAST_FIGURE,
    MOST_FIGURE,
    Estimate,
    NodeFacts,
    bounded_rates,
    estimate,
    slot_wait_s,
    work_tokens,
)
from gainshare.capacity.routing.rates import Counted, Rates, rates_of

FAST = Rates(1000.0, 20.0, 2.0)
figures = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(-(10**9), 10**9)
rates = st.builds(Rates, figures, figures, figures)
nodes = st.builds(
    NodeFacts,
    key=st.text(min_size=1, max_size=4),
    slots=st.integers(0, 64),
    running=st.integers(-5, 300),
    prefill_left=counts,
    output_left=counts,
    rates=rates,
    is_measured=st.booleans(),
    price=st.integers(-5, 10**9),
    is_preemptible=st.booleans(),
)
fleets = st.lists(nodes, max_size=8, unique_by=lambda node: node.key)


def node(key: str, **facts: object) -> NodeFacts:
    return replace(NodeFacts(key, slots=4, rates=FAST, is_measured=True), **facts)  # type: ignore[arg-type]


def preferred(*fleet: NodeFacts, seed: int = 1, prompt: int = 1000, priority: int = 0, **hits: int) -> str:
    estimates = {n.key: estimate(n, prompt_tokens=prompt, hit_tokens=hits.get(n.key, 0)) for n in fleet}
    return preference(fleet, estimates, seed=seed, priority=priority)[0]


def first_token_s(facts: NodeFacts, prompt: int = 1000, hit: int = 0) -> float:
    return estimate(facts, prompt_tokens=prompt, hit_tokens=hit).first_token_s


def test_the_estimate_is_queue_plus_prefill_left_plus_what_is_not_cached() -> None:
    base = BASE_TOKENS / 1000
    assert math.isclose(first_token_s(node("a")), 1.0 + base)
    assert math.isclose(first_token_s(node("a", prefill_left=500)), 1.5 + base)
    assert math.isclose(first_token_s(node("a"), hit=900), 0.1 + base)
    full = node("a", running=4, output_left=400)
    assert math.isclose(slot_wait_s(full), 50 / 20 / 4)
    assert first_token_s(full) > 1.5


@given(nodes, counts, counts)
def test_an_estimate_is_a_number_whatever_is_put_in(facts: NodeFacts, prompt: int, hit: int) -> None:
    found = estimate(facts, prompt_tokens=prompt, hit_tokens=hit)
    assert math.isfinite(found.first_token_s) and found.first_token_s >= 0
    assert math.isfinite(found.error_s) and found.error_s > 0


@given(nodes, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_larger_hit_never_makes_a_node_slower_and_more_work_never_faster(
    facts: NodeFacts, prompt: int, hit: int, more: int
) -> None:
    base = first_token_s(facts, prompt, hit)
    assert first_token_s(facts, prompt, hit + more) <= base
    assert first_token_s(replace(facts, prefill_left=max(facts.prefill_left, 0) + more), prompt, hit) >= base
    assert first_token_s(facts, prompt + more, hit) >= base


@given(fleets, st.integers(0, 2**128 - 1), st.integers(-100, 0))
def test_every_node_is_named_once_and_the_order_repeats(
    fleet: list[NodeFacts], seed: int, priority: int
) -> None:
    estimates = {n.key: estimate(n, prompt_tokens=100) for n in fleet}
    order = preference(fleet, estimates, seed=seed, priority=priority)
    assert sorted(order) == sorted(n.key for n in fleet)
    assert order == preference(list(reversed(fleet)), estimates, seed=seed, priority=priority)


@given(fleets, st.data())
def test_estimates_that_are_no_numbers_come_last(fleet: list[NodeFacts], data: st.DataObject) -> None:
    estimates = {
        n.key: Estimate(n.key, data.draw(st.floats(0, 100)), data.draw(st.floats(0, 10))) for n in fleet
    }
    for broken in (math.nan, math.inf, -1.0):
        for n in fleet[:1]:
            estimates[n.key] = Estimate(n.key, broken, 0.1)
        ordered = costs([replace(n, price=0) for n in fleet], estimates)
        if len(fleet) > 1:
            assert ordered[-1].key == fleet[0].key and math.isinf(ordered[-1].seconds)


def test_a_node_with_the_prefix_is_preferred_to_an_idle_one_without() -> None:
    busy = node("a", running=2, prefill_left=100)
    assert all(preferred(busy, node("b"), node("c"), seed=seed, a=900) == "a" for seed in range(50))


def test_a_prefix_does_not_hold_a_request_in_a_long_queue() -> None:
    crowded = node("a", running=3, prefill_left=20_000)
    assert all(preferred(crowded, node("b"), seed=seed, a=1000) == "b" for seed in range(50))


def test_a_node_that_is_known_by_short_prompts_only_gets_a_long_one_as_well() -> None:
    """Ten prompts of 10 tokens, each 50 ms to the first token: 10,000 tokens take some seconds, not a minute."""
    sums = Counted(requests=10, busy_ms=900, prefill_tokens=10 * work_tokens(0, 10), prefill_ms=500)
    short = node("a", rates=rates_of(sums, 4))
    assert first_token_s(short, 10) < 0.06
    assert first_token_s(short, 10_000) < 5


def test_a_slow_node_gets_nothing_while_others_are_free_and_its_share_when_they_are_not() -> None:
    slow = node("slow", rates=Rates(200.0, 4.0))
    assert all(preferred(slow, node("b"), seed=seed) == "b" for seed in range(50))
    assert all(preferred(slow, node("b", prefill_left=50_000), seed=seed) == "slow" for seed in range(50))


def test_nodes_that_cannot_be_told_apart_share_the_requests() -> None:
    fleet = [node(key) for key in "abcd"]
    chosen = Counter(preferred(*fleet, seed=seed) for seed in range(2000))
    assert set(chosen) == set("abcd")
    assert max(chosen.values()) <= 0.3 * 2000


def test_of_two_drawn_nodes_the_less_loaded_one_gets_the_request() -> None:
    fleet = [node(key, prefill_left=load) for key, load in zip("abcd", (300, 200, 100, 0), strict=True)]
    chosen = Counter(preferred(*fleet, seed=seed) for seed in range(2000))
    assert chosen["d"] > chosen["c"] > chosen["b"] > chosen["a"] == 0


def test_low_priority_goes_to_the_cheap_and_preemptible_class() -> None:
    dear = node("dear", price=1000)
    cheap = node("cheap", price=100, is_preemptible=True, rates=Rates(200.0, 4.0))
    assert all(preferred(dear, cheap, seed=seed) == "dear" for seed in range(50))
    assert all(preferred(dear, cheap, seed=seed, priority=-1) == "cheap" for seed in range(50))


def test_equally_fast_the_cheaper_class_is_first() -> None:
    estimates = {key: Estimate(key, 0.2, 0.0) for key in "ab"}
    assert preference([node("a", price=9), node("b", price=3)], estimates, seed=3)[0] == "b"


def test_a_node_that_would_miss_the_deadline_is_last_also_for_low_priority() -> None:
    fleet = [node("cheap", price=0, is_preemptible=True), node("dear", price=9)]
    estimates = {"cheap": Estimate("cheap", 4.0, 0.1), "dear": Estimate("dear", 0.5, 0.1)}
    assert preference(fleet, estimates, seed=1, priority=-1)[0] == "cheap"
    assert preference(fleet, estimates, seed=1, priority=-1, deadline_s=1.0)[0] == "dear"


@given(rates, rates, figures)
def test_a_node_never_counts_as_much_faster_than_its_class(own: Rates, of_class: Rates, s: float) -> None:
    found = bounded_rates(own, of_class, s)
    for mine, theirs in zip(
        (found.prefill_tokens_per_s, found.decode_tokens_per_s),
        (of_class.prefill_tokens_per_s, of_class.decode_tokens_per_s),
        strict=True,
    ):
        assert math.isfinite(mine) and mine >= 0
        if LEAST_FIGURE <= theirs <= MOST_FIGURE:
            assert mine <= FASTER_THAN_CLASS * theirs * (1 + 1e-9)


def test_a_node_that_answers_at_once_with_garbage_does_not_attract_the_traffic() -> None:
    honest = bounded_rates(FAST, FAST, 60)
    liar = bounded_rates(Rates(1e9, 1e9, 1e9), FAST, 60)
    fleet = [node("liar", rates=liar), *(node(key, rates=honest) for key in "abc")]
    chosen = Counter(preferred(*fleet, seed=seed) for seed in range(2000))
    assert chosen["liar"] <= 0.55 * 2000  # two of four are drawn; it would get all of them by its claim


def test_a_node_that_is_five_times_slower_is_seen_after_seconds() -> None:
    slow = bounded_rates(Rates(200.0, 4.0), FAST, 4.0)
    assert slow.prefill_tokens_per_s < 300
    assert bounded_rates(Rates(), FAST, 0.0) == FAST
