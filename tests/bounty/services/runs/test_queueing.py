"""The fair order: people take turns, also if one of them submits a hundred runs first."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bounty.queueing import UNKNOWN, Estimate, Waiting, estimate, fair_order, let_by

START = datetime(2026, 1, 1, tzinfo=UTC)


def waiting(number: int, person: int | None, after_s: int = 0) -> Waiting:
    return Waiting(UUID(int=number), person, START + timedelta(seconds=after_s))


def test_a_latecomer_with_one_run_is_next_after_the_first_of_many() -> None:
    many = [waiting(number, 1, number) for number in range(10)]
    late = waiting(99, 2, 50)
    assert fair_order([*many, late], {}).index(late.run_id) == 1


def test_recent_runs_count_against_a_person() -> None:
    order = fair_order([waiting(1, 1, 0), waiting(2, 2, 5)], {1: 3})
    assert order == [UUID(int=2), UUID(int=1)]


def test_the_platforms_own_runs_wait_behind_everyone() -> None:
    order = fair_order([waiting(1, None, 0), waiting(2, 7, 5)], {7: 100})
    assert order == [UUID(int=2), UUID(int=1)]


def of_series(
    number: int, person: int, sealed_s: int, *, series: str = "a", queued_s: int | None = None, **how: int
) -> Waiting:
    queued = START + timedelta(seconds=sealed_s if queued_s is None else queued_s)
    sealed = START + timedelta(seconds=sealed_s)
    return Waiting(UUID(int=number), person, queued, series=series, sealed_at=sealed, **how)


def numbers(order: list[UUID]) -> list[int]:
    return [run_id.int for run_id in order]


def test_within_a_series_runs_start_in_sealed_order_whoever_is_busy() -> None:
    order = fair_order([of_series(1, 1, 0), of_series(2, 2, 5), of_series(3, 1, 9)], {1: 5})
    assert numbers(order) == [1, 2, 3]


def test_a_price_keeps_the_place_of_its_submission() -> None:
    """The confirmation of what was sealed first is queued last, and starts first."""
    order = fair_order([of_series(2, 2, 5), of_series(1, 1, 0, queued_s=60)], {})
    assert numbers(order) == [1, 2]


def test_fairness_decides_between_series() -> None:
    """A person who fills one series does not delay the others."""
    flood = [of_series(number, 1, number) for number in range(1, 10)]
    order = fair_order([*flood, of_series(99, 2, 50, series="b")], {1: 1})
    assert numbers(order)[0] == 99


def test_no_one_holds_a_series_up_by_filling_it() -> None:
    """Bob waits behind ten runs of a busy person. Another series, also of a busy person, does not go before all of them:
    Bob lends his turns to his series, one for each run before his."""
    flood = [of_series(number, 1, number) for number in range(1, 11)]
    other = [of_series(number, 3, number, series="b") for number in range(101, 131)]
    order = numbers(fair_order([*flood, of_series(50, 2, 20), *other], {1: 20, 3: 15}))
    assert order.index(50) == 10
    alone = numbers(fair_order([*flood, *other], {1: 20, 3: 15}))
    assert alone[0] == 101  # without Bob, the busier person comes later


def test_what_was_lent_counts() -> None:
    """The series has started three runs on Bob's turn already."""
    waiting_now = [of_series(1, 1, 0), of_series(2, 2, 5, lent=3), of_series(3, 3, 6, series="b")]
    assert numbers(fair_order(waiting_now, {1: 9, 3: 2}))[0] == 3
    assert numbers(fair_order(waiting_now, {1: 9, 3: 4}))[0] == 1


def test_the_first_run_of_a_new_account_lets_five_by() -> None:
    old = [waiting(number, number, number) for number in range(1, 9)]
    order = fair_order([*old, replace(waiting(99, 99, 50), lets_by=5)], dict.fromkeys(range(1, 9), 1))
    assert numbers(order) == [1, 2, 3, 4, 5, 99, 6, 7, 8]


def test_it_lets_one_run_of_each_person_by() -> None:
    """Whoever submits a hundred runs first does not hold a new account up."""
    many = [waiting(number, 1, number) for number in range(1, 10)]
    new = replace(waiting(99, 99, 50), lets_by=5)
    assert numbers(fair_order([*many, new], {1: 3}))[:3] == [1, 99, 2]
    assert numbers(fair_order([*many, replace(new, served=frozenset({1}))], {1: 3}))[0] == 99


def test_it_lets_only_those_by_who_already_wait() -> None:
    new = replace(waiting(99, 99, 50), lets_by=5)
    late = [waiting(number, number, 60 + number) for number in range(1, 4)]
    assert numbers(fair_order([new, *late], dict.fromkeys(range(1, 4), 1))) == [99, 1, 2, 3]


def test_many_new_accounts_cannot_pass_those_who_already_wait() -> None:
    old = [waiting(number, number, number) for number in range(1, 5)]
    new = [replace(waiting(number, number, number), lets_by=5) for number in range(50, 90)]
    order = numbers(fair_order([*old, *new], dict.fromkeys(range(1, 5), 3)))
    assert order[:4] == [1, 2, 3, 4]


def test_who_was_let_by_is_told_when_a_run_starts() -> None:
    old = [waiting(number, number, number) for number in (1, 2)]
    new = replace(waiting(99, 99, 50), lets_by=5)
    load = {1: 1, 2: 1}
    assert let_by([*old, new], load, UUID(int=1)) == [UUID(int=99)]
    assert let_by([*old, new], {99: 4}, UUID(int=1)) == []  # it was their turn anyway
    assert let_by([*old, replace(new, lets_by=0)], load, UUID(int=1)) == []


runs = st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 1000)), max_size=40).map(
    lambda rows: [waiting(number, *row) for number, row in enumerate(rows)]
)


@given(runs, st.dictionaries(st.integers(1, 4), st.integers(0, 5)))
def test_the_order_is_complete_and_each_persons_runs_keep_their_own_order(
    queue: list[Waiting], load: dict[int | None, int]
) -> None:
    order = fair_order(queue, load)
    assert sorted(order) == sorted(run.run_id for run in queue)
    by_id = {run.run_id: run for run in queue}
    for person in {run.person for run in queue}:
        times = [by_id[run_id].queued_at for run_id in order if by_id[run_id].person == person]
        assert times == sorted(times)


@given(runs)
def test_no_waiting_person_is_ever_two_turns_behind_another(queue: list[Waiting]) -> None:
    by_id = {run.run_id: run for run in queue}
    left = Counter(run.person for run in queue if run.person is not None)
    served: Counter[int] = Counter()
    for run_id in fair_order(queue, {}):
        person = by_id[run_id].person
        if person is None:
            assert not +left
            continue
        served[person] += 1
        left[person] -= 1
        assert all(served[person] - served[other] <= 1 for other in left if left[other] > 0)


def test_the_next_run_starts_as_soon_as_a_runner_is_free() -> None:
    assert estimate(ahead_s=[], own_s=30.0, busy_s=[], idle=1) == Estimate(0, 30)
    assert estimate(ahead_s=[], own_s=30.0, busy_s=[12.0, 50.0], idle=0) == Estimate(12, 42)


def test_runs_ahead_are_dealt_out_to_the_runner_that_is_free_first() -> None:
    # The idle runner takes 40 s, the busy one is free after 10 s and takes 20 s: ours follows on that one at 30 s.
    assert estimate(ahead_s=[40.0, 20.0], own_s=5.0, busy_s=[10.0], idle=1) == Estimate(30, 35)


def test_nothing_is_estimated_without_runners_or_where_a_run_ahead_is_unknown() -> None:
    assert estimate(ahead_s=[], own_s=30.0, busy_s=[], idle=0) == UNKNOWN
    assert estimate(ahead_s=[None], own_s=30.0, busy_s=[], idle=1) == UNKNOWN
    assert estimate(ahead_s=[], own_s=None, busy_s=[], idle=1) == Estimate(0, None)


def test_a_runner_with_an_unknown_end_is_not_counted() -> None:
    assert estimate(ahead_s=[20.0], own_s=5.0, busy_s=[None], idle=1) == Estimate(20, 25)
    assert estimate(ahead_s=[], own_s=5.0, busy_s=[None], idle=0) == UNKNOWN


spans = st.lists(st.floats(0, 1000), max_size=12)


@given(spans, spans, st.integers(0, 4), st.floats(0, 1000))
def test_another_runner_never_makes_it_later_and_another_run_ahead_never_earlier(
    ahead: list[float], busy: list[float], idle: int, own: float
) -> None:
    def starts(ahead_s: list[float], idle: int) -> float:
        found = estimate(ahead_s=ahead_s, own_s=own, busy_s=busy, idle=idle).starts_in_s
        return float("inf") if found is None else found

    assert starts(ahead, idle + 1) <= starts(ahead, idle)
    assert starts([*ahead, 10.0], idle) >= starts(ahead, idle)
