"""The rule of rollback by itself for slow trees: no chain of canary-only paths, few false alarms, and the canary's times."""

import random
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.deployments.slowness import (
    INHERITED_FOR,
    LONG_WINDOWS,
    SLOW_WINDOWS,
    UNKNOWN_SCATTER,
    WELL_KNOWN,
    Pace,
    PromptTime,
    TokenTime,
    Usual,
    decode_ns,
    decode_pace,
    drift_of,
    inherited,
    prefill_ns,
    prefill_pace,
    stays_slow,
    usual_of,
)
from gainshare.capacity.routing.estimates import BASE_TOKENS

TIMES = st.dictionaries(st.integers(1, 64), st.integers(1, 10**9), min_size=1, max_size=5)
LENGTHS = st.dictionaries(st.integers(48, 512), st.integers(1, 10**9), min_size=1, max_size=2)
THEN = datetime(2026, 1, 1, tzinfo=UTC)
CALM = Usual(0.0, 0.0, 100, THEN)
A_DAY, IN_SHORT, IN_LONG = 2880, 10, 240  # windows


def at(*ratios: float) -> list[Pace]:
    """Windows of equal work that took so many times what the canary says."""
    return [Pace(1e9 * ratio, 1e9) for ratio in ratios]


def noisy(ratio: float, count: int, chance: random.Random, scatter: float = 0.3) -> list[Pace]:
    return [Pace(weight * ratio * chance.lognormvariate(0, scatter), weight) for weight in [1e9] * count]


def usual(ratio: float, windows: int = 100) -> Usual:
    return Usual(log(ratio), 0.0, windows, THEN)


def is_slow(*ratios: float, usually: Usual = CALM, percent: int = 20, is_long: bool = False) -> bool:
    return stays_slow(at(*ratios), usual=usually, slower_percent=percent, is_long=is_long)


# -- what the canary says -----------------------------------------------------------------------------


@given(TIMES, st.floats(0, 200), st.floats(0, 200))
def test_expected_time_of_a_token_is_the_canarys_and_lies_between(
    times: dict[int, int], batch: float, other: float
) -> None:
    for size, ns in times.items():
        assert decode_ns(size, times) == pytest.approx(ns)
    found = decode_ns(batch, times)
    below = [ns for size, ns in times.items() if size <= batch]
    if batch <= max(times):
        assert min(times.values()) - 1e-6 <= found <= max(times.values()) * (1 + 1e-9)
    assert found > 0 and (below or found == times[min(times)])
    if all(times[low] <= times[high] for low in times for high in times if low <= high):
        low, high = sorted((batch, other))
        assert decode_ns(low, times) <= decode_ns(high, times) * (1 + 1e-9)


@given(LENGTHS, st.floats(0, 10_000), st.floats(0, 10_000))
def test_expected_time_of_a_prompt_never_falls_with_its_length(
    times: dict[int, int], length: float, other: float
) -> None:
    low, high = sorted((length, other))
    assert 0 <= prefill_ns(low, times) <= prefill_ns(high, times) * (1 + 1e-9) + 1e-6
    longest = max(times)
    assert prefill_ns(longest, times) == pytest.approx(times[longest])


def test_expected_time_of_a_prompt_is_on_the_line_through_both_lengths() -> None:
    times = {100: 50_000_000, 300: 90_000_000}
    assert prefill_ns(0, times) == 30_000_000 and prefill_ns(1_000, times) == 230_000_000
    assert (
        prefill_ns(100 + BASE_TOKENS, {100: 50_000_000})
        < 100_000_000
        == prefill_ns(100 + (100 + BASE_TOKENS), {100: 50_000_000})
    )


@given(
    TIMES,
    st.lists(st.tuples(st.integers(1, 10**5), st.floats(0, 80)), min_size=1, max_size=4),
    st.floats(0.2, 5),
)
def test_pace_of_tokens_is_the_factor_by_which_all_nodes_are_slower(
    times: dict[int, int], nodes: list[tuple[int, float]], factor: float
) -> None:
    rows = [
        TokenTime(tokens, round(factor * tokens * decode_ns(batch, times) / 1e6), batch)
        for tokens, batch in nodes
    ]
    found = decode_pace(rows, times)
    if sum(tokens for tokens, _ in nodes) < 16:
        assert found is None
        return
    assert found is not None
    rounding = len(rows) * 1e6 / sum(tokens * decode_ns(batch, times) for tokens, batch in nodes)
    assert found.took_ns / found.expected_ns == pytest.approx(factor, abs=rounding + 1e-9)


def test_pace_of_prompts_leaves_out_the_constant_that_routing_adds_and_a_step_of_the_others() -> None:
    """Three prompts of 200 tokens in all, 30 ms each and 0.2 ms a token, while one answer or more is under way."""
    times, decode = {100: 50_000_000, 300: 90_000_000}, {1: 10_000_000, 4: 20_000_000}
    rows = [PromptTime(3, 200 + 3 * BASE_TOKENS, 260, 0.5), PromptTime(0, 0, 0, 0.0)]
    found = prefill_pace(rows, times, decode)
    assert found is not None
    assert (found.took_ns, found.expected_ns) == (260_000_000, pytest.approx(145_000_000))
    busy = prefill_pace([PromptTime(3, 200 + 3 * BASE_TOKENS, 260, 4.0)], times, decode)
    assert busy is not None and busy.expected_ns == pytest.approx(190_000_000)
    assert prefill_pace([PromptTime(2, 15 + 2 * BASE_TOKENS, 99, 1.0)], times, decode) is None
    assert prefill_pace([PromptTime(2, 100, 99, 1.0)], times, decode) is None  # all of it was in the cache


# -- the rule -----------------------------------------------------------------------------------------


def test_slow_is_four_of_five_windows_and_enough_of_them() -> None:
    slow = [1.3] * SLOW_WINDOWS
    assert is_slow(*slow) and not is_slow(*slow[1:]) and not is_slow()
    assert stays_slow([*at(*slow), None, None], usual=CALM, slower_percent=20)
    assert not is_slow(*slow, usually=usual(1.1)) and not is_slow(*slow, percent=31)
    assert is_slow(*[2.0] * 9, 1.0) and is_slow(*[2.0] * 8, *[1.1] * 2)
    assert not is_slow(*[2.0] * 7, *[1.1] * 3)


def test_slow_is_the_mean_by_work_as_well() -> None:
    """Four windows with hardly any work, and one with all of it, which was as fast as usual."""
    windows = [*at(2.0, 2.0, 2.0, 2.0), Pace(1e15, 1e15)]
    assert not stays_slow(windows, usual=CALM, slower_percent=20)
    assert stays_slow([*windows[:4], Pace(2e15, 1e15)], usual=CALM, slower_percent=20)


def test_one_bad_moment_is_no_reason() -> None:
    assert not is_slow(*[1.0] * 9, 50.0)
    assert not is_slow(*[1.0] * 99, 500.0, is_long=True)


def test_a_tree_that_is_fast_in_every_third_window_is_found_in_a_long_look() -> None:
    by_turns = [1.7, 1.7, 1.0] * (IN_LONG // 3)
    assert not any(is_slow(*by_turns[start : start + IN_SHORT]) for start in range(3))
    assert is_slow(*by_turns, is_long=True)
    assert not is_slow(*by_turns[: LONG_WINDOWS - 1], is_long=True)


def test_what_is_well_known_counts_in_both_directions() -> None:
    """Nodes with more threads than the canary's single core: a third of its time is usual."""
    threads = usual_of(at(*[0.33] * WELL_KNOWN), THEN)
    assert is_slow(*[0.9] * 10, usually=threads) and not is_slow(*[0.38] * 10, usually=threads)
    hardly = usual_of(at(*[0.33] * (WELL_KNOWN - 1)), THEN)
    assert (hardly.log, hardly.scatter) == (0.0, UNKNOWN_SCATTER)
    assert not is_slow(*[1.5] * 10, usually=hardly) and is_slow(*[2.0] * 10, usually=hardly)
    nothing = usual_of([None], THEN)
    assert (nothing.log, nothing.windows) == (0.0, 0) and is_slow(*[2.0] * 10, usually=nothing)


@given(
    st.lists(st.floats(0.3, 5), min_size=SLOW_WINDOWS, max_size=60),
    st.floats(0.3, 3),
    st.integers(0, 200),
    st.booleans(),
)
def test_a_tree_that_is_not_slower_than_usual_in_any_window_stays(
    ratios: list[float], factor: float, percent: int, is_long: bool
) -> None:
    usually = usual(factor * max(ratios))
    if factor * (1 + percent / 100) >= 1:
        assert not is_slow(*ratios, usually=usually, percent=percent, is_long=is_long)


@given(st.floats(1.01, 3), st.floats(0.1, 3), st.integers(0, 100))
def test_a_tree_that_is_evenly_slower_is_found_at_the_limit(
    factor: float, ratio: float, percent: int
) -> None:
    usually = usual_of(at(*[ratio] * WELL_KNOWN), THEN)
    slow = [ratio * factor * (1 + percent / 100)] * 10
    assert is_slow(*slow, usually=usually, percent=percent)


def test_what_is_usual_survives_being_kept() -> None:
    made = usual_of(noisy(1.3, 50, random.Random(3)), THEN)
    kept = Usual.from_json(made.to_json())
    assert (kept.windows, kept.since) == (made.windows, made.since)
    assert (kept.log, kept.scatter) == (
        pytest.approx(made.log, abs=1e-6),
        pytest.approx(made.scatter, abs=1e-6),
    )


# -- false alarms -------------------------------------------------------------------------------------


def day(chance: np.random.Generator, quiet: float) -> list[Pace | None]:
    """A day of an equal tree: 30 % scatter between windows, hosts that are busy for some minutes, nothing in quiet ones."""
    logs = chance.normal(0, 0.3, A_DAY)
    busy = np.repeat(chance.random(A_DAY // 6) < 0.15, 6)  # three minutes each, a quarter slower
    work = chance.lognormal(0, 0.5, A_DAY)
    has_work = chance.random(A_DAY) >= quiet
    ratios = np.exp(logs + 0.22 * busy)
    return [
        Pace(1e9 * r * w, 1e9 * w) if has else None for r, w, has in zip(ratios, work, has_work, strict=True)
    ]


def alarms(windows: Sequence[Pace | None], usually: Usual) -> int:
    """Looks of one day, one for each window, that would roll back. Looks that cannot are passed over quickly."""
    logs = np.array([0.0 if pace is None else pace.log - usually.log for pace in windows])
    known = np.array([pace is not None for pace in windows])
    over = np.cumsum(np.concatenate([[0], known & (logs > log(1.2))]))
    count = np.cumsum(np.concatenate([[0], known]))
    found = 0
    for end in range(IN_SHORT, len(windows) + 1):
        start = end - IN_SHORT
        if 5 * (over[end] - over[start]) >= 4 * (count[end] - count[start]) >= 4 * SLOW_WINDOWS:
            found += stays_slow(windows[start:end], usual=usually, slower_percent=20)
        if end >= IN_LONG and end % 20 == 0:
            found += stays_slow(windows[end - IN_LONG : end], usual=usually, slower_percent=20, is_long=True)
    return found


@pytest.mark.parametrize("before", [0, WELL_KNOWN, 240])
def test_equal_trees_on_busy_hosts_stay(before: int) -> None:
    chance = np.random.default_rng(before)
    found = 0
    for _ in range(5):
        history = [pace for pace in day(chance, 0.0) if pace is not None][:before]
        found += alarms(day(chance, 0.3), usual_of(history, THEN))
    assert found == 0


# -- chains of canary-only paths ----------------------------------------------------------------------


class Chain:
    """Deployments of trees that all take the same in service, each faster in canaries than the one before.

    `host` is how many times the first canary's host the service takes, `hosts` that factor of each canary's own host.
    `paid` is what the canaries of those that stayed add up to, as a factor.
    """

    def __init__(self, host: float, scatter: float, *, before: int = 100, seed: int = 1) -> None:
        self._host, self._scatter, self._before = host, scatter, before
        self._chance = random.Random(seed)
        self._time, self._taken = (
            1.0,
            1.0,
        )  # of the tree that serves: in canaries; and as its own canary had it
        self._usual: Usual | None = None
        self.paid = 1.0

    def deploy(self, step: float, *, hosts: float = 1.0, now: datetime = THEN) -> bool:
        """Whether a tree that is faster by `step` in canaries alone stays, where its canary's host takes `hosts` times."""
        served, candidate = self._time * hosts, self._time * hosts / step
        before = noisy(self._host / served, self._before, self._chance, self._scatter)
        drift = drift_of({1: served}, {1: self._taken}) if self._usual is not None else 0.0
        usually = inherited(usual_of(before, now), self._usual, drift)
        after = noisy(self._host / candidate, IN_LONG, self._chance, self._scatter)
        if stays_slow(after[:IN_SHORT], usual=usually, slower_percent=20) or stays_slow(
            after, usual=usually, slower_percent=20, is_long=True
        ):
            return False
        self._usual, self._time, self._taken = usually, self._time / step, candidate
        self.paid *= step
        return True


@pytest.mark.parametrize("host", [0.3, 1.0, 1.6])
def test_a_chain_of_canary_only_paths_is_paid_for_one(host: float) -> None:
    """Each is 19 % faster in its canary than in service: by the ratio of the tree before every one of them would stay."""
    chain = Chain(host, 0.05)
    assert [chain.deploy(1.19) for _ in range(4)] == [True, False, False, False]


Steps = list[tuple[float, float]]


def paid_for(steps: Steps, host: float, scatter: float, seed: int) -> float:
    """What a chain of these steps, each with its canary's host, is paid in the end."""
    chain = Chain(host, scatter, seed=seed)
    for step, hosts in steps:
        chain.deploy(step, hosts=hosts)
    return chain.paid


def limit(scatter: float) -> float:
    return 1.2 * exp(9 * scatter / 10)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1.0, 1.3), st.floats(0.4, 2.5)), min_size=1, max_size=12),
    st.floats(0.2, 3.0),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_no_chain_of_canary_only_paths_is_paid_for_more_than_the_limit(
    steps: Steps, host: float, scatter: float
) -> None:
    """However it is split, and whichever host runs each canary. Who splits it cannot choose how windows scatter."""
    paid = [paid_for(steps, host, scatter, seed) for seed in range(9)]
    assert statistics.median(paid) <= limit(scatter)
    assert max(paid) <= 1.2 * exp(2 * scatter), "far beyond any luck"


@pytest.mark.parametrize("scatter", [0.05, 0.2])
def test_luck_adds_to_one_chain_in_fifty_at_most(scatter: float) -> None:
    """Of 26,000 chains 54 in 12,949 (scatter 0.05) and 145 in 12,954 (0.2) were above, by 0.36 standard deviations at most."""
    chance = random.Random(5)
    chains = [
        [(chance.uniform(1, 1.3), chance.choice([1.0, chance.uniform(0.4, 2.5)])) for _ in range(length)]
        for length in (chance.randint(3, 12) for _ in range(400))
    ]
    paid = [paid_for(steps, chance.uniform(0.2, 3), scatter, seed) for seed, steps in enumerate(chains)]
    assert sum(one > limit(scatter) for one in paid) <= len(paid) // 50
    assert max(paid) <= 1.2 * exp(1.3 * scatter)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 1.25), min_size=1, max_size=10), st.floats(0.5, 1.0), st.integers(0, 19))
def test_a_chain_that_nothing_was_known_before_is_no_slower_than_its_canary(
    steps: list[float], host: float, before: int
) -> None:
    """Few windows before the first one, and many before each that follows."""
    chain = Chain(host, 0.0, before=before)
    for step in steps:
        chain.deploy(step)
        chain._before = 100
    assert host * chain.paid <= 1.2 * exp(4 * UNKNOWN_SCATTER / IN_LONG**0.5) + 1e-9


@given(st.lists(st.floats(0.4, 2.5), min_size=1, max_size=12), st.floats(0.2, 3.0), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_honest_trees_stay_whichever_host_runs_their_canaries(
    hosts: list[float], host: float, seed: int
) -> None:
    chain = Chain(host, 0.1, seed=seed)
    assert all(chain.deploy(1.0, hosts=one) for one in hosts)


def test_what_was_known_is_passed_on_for_as_long_as_a_gain_is_paid() -> None:
    first = usual_of(at(*[1.0] * 50), THEN)
    for later, ratio in ((INHERITED_FOR, 1.0), (INHERITED_FOR + timedelta(seconds=1), 1.3)):
        own = usual_of(at(*[1.3] * 50), THEN + later)
        assert inherited(own, first, 0.0).log == pytest.approx(log(ratio))
    assert inherited(own, None, 0.0) == own


def test_scatter_is_that_of_now_and_of_five_minutes_as_well() -> None:
    """Hosts that are busy for minutes: four hours calm, and four in which each five minutes are twice as long by turns."""
    calm = usual_of(at(*[1.0] * 480), THEN)
    turns = usual_of(at(*([1.0] * IN_SHORT + [2.0] * IN_SHORT) * 24), THEN)
    assert calm.scatter == 0.0 and turns.scatter > 3 * log(2) / 2
    assert is_slow(*[1.3] * IN_SHORT, usually=calm) and not is_slow(*[2.0] * IN_SHORT, usually=turns)
    own = usual_of(at(*[1.0, 1.2] * 50), THEN)
    assert inherited(own, calm, 0.0).scatter == own.scatter


@pytest.mark.parametrize(
    ("scatter", "is_long", "found_from"),
    [(0.0, False, 1.2), (0.05, False, 1.3), (0.05, True, 1.22), (0.3, False, 1.84), (0.3, True, 1.36)],
)
def test_how_slow_a_tree_must_be_to_be_found(scatter: float, is_long: bool, found_from: float) -> None:
    """As the reference says it; two hours of the tree before, and five minutes or two hours of this one."""
    far = scatter * sqrt(10 / 8)
    five_minutes = [exp(far), exp(-far)] * 4 + [1.0, 1.0]
    usually = usual_of(at(*five_minutes * 24), THEN)
    span = five_minutes * (24 if is_long else 1)
    for ratio, is_found in ((found_from + 0.01, True), (found_from - 0.04, False)):
        assert is_slow(*[ratio * one for one in span], usually=usually, is_long=is_long) == is_found, ratio
