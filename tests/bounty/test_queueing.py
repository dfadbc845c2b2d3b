"""The fair order: people take turns, whoever sends a hundred runs first."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bounty.queueing import Waiting, eta_s, fair_order

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


def test_the_platforms_own_runs_wait_behind_everybody() -> None:
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


def test_eta_counts_what_is_in_front() -> None:
    assert eta_s(position=0, typical_run_s=30.0, runners=1) == 30
    assert eta_s(position=3, typical_run_s=30.0, runners=2) == 60
    assert eta_s(position=3, typical_run_s=None, runners=2) is None
    assert eta_s(position=3, typical_run_s=30.0, runners=0) is None
