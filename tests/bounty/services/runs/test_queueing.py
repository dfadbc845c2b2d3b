"""The fair order: people take turns, also if one of them submits a hundred runs first."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bounty.queueing import UNKNOWN, Estimate, Waiting, estimate, fair_order

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
