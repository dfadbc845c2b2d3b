"""Ranks of a series' gains: log speeds add up, and overlapping intervals share a rank. Pure."""

from hypothesis import given
from hypothesis import strategies as st

from bounty.standings import Standing, Step, shared_ranks, standings

INTERVALS = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(0, 30)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=12,
)
STEPS = st.lists(
    st.tuples(st.integers(1, 10**7), st.integers(0, 10**6)).map(
        lambda pair: Step(pair[0], pair[0] + pair[1])
    ),
    max_size=12,
)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def test_the_speed_of_a_series_is_the_sum_of_its_steps() -> None:
    found = standings([Step(900_161, 910_000), Step(198_451, 200_000)])  # 2.46x, then 1.2195x
    assert found == [Standing(2, 900_161, 919_839), Standing(1, 1_098_612, 1_121_388)]  # ln 3 in millionths


def test_gains_whose_intervals_overlap_share_a_rank_and_the_next_one_counts_them() -> None:
    assert shared_ranks([(0, 10), (9, 20), (30, 40), (30, 30)]) == [3, 3, 1, 1]
    assert shared_ranks([]) == [] and shared_ranks([(5, 5)]) == [1]
    assert shared_ranks([(0, 1), (2, 3)]) == [2, 1]
    assert shared_ranks([(0, 4), (3, 7), (6, 9)]) == [1, 1, 1]  # the outer two by way of the middle one


def test_an_estimate_below_its_bound_makes_no_interval_upside_down() -> None:
    assert Step(10, 5).most_log_ppm == 10


@given(INTERVALS)
def test_overlapping_intervals_share_and_the_higher_of_two_apart_is_never_behind(
    intervals: list[tuple[int, int]],
) -> None:
    ranks = shared_ranks(intervals)
    for one, rank in zip(intervals, ranks, strict=True):
        for other, other_rank in zip(intervals, ranks, strict=True):
            if overlap(one, other):
                assert rank == other_rank
            elif one[0] > other[1]:
                assert rank <= other_rank


@given(INTERVALS)
def test_a_rank_counts_those_that_are_wholly_above(intervals: list[tuple[int, int]]) -> None:
    ranks = shared_ranks(intervals)
    assert all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


@given(INTERVALS, st.randoms(use_true_random=False))
def test_the_order_of_asking_changes_no_rank(intervals: list[tuple[int, int]], chance: object) -> None:
    order = list(range(len(intervals)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    shuffled = shared_ranks([intervals[place] for place in order])
    assert [shuffled[order.index(place)] for place in range(len(intervals))] == shared_ranks(intervals)


@given(STEPS)
def test_each_gain_ranks_above_the_one_before_and_the_last_one_is_first(steps: list[Step]) -> None:
    found = standings(steps)
    reached = [standing.reached_log_ppm for standing in found]
    assert reached == sorted(set(reached)) and all(one.most_log_ppm >= one.reached_log_ppm for one in found)
    assert [one.rank for one in found] == sorted((one.rank for one in found), reverse=True)
    if found:
        assert found[-1].rank == 1 and found[-1].reached_log_ppm == sum(step.bound_log_ppm for step in steps)
