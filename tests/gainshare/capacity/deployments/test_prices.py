"""The tree that prices rest on, over deployments of every kind."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.deployments.prices import best_of, credited_lines
from gainshare.capacity.models import Deployment, DeploymentState


def served(tree: str, decode: int = 0, **more: Any) -> Deployment:
    """A deployment that served, with its bound on decode against the best tree of its time."""
    row = {"bound_log_ppm": decode, "estimate_log_ppm": decode, "pairs": 30}
    values = {"state": DeploymentState.SUPERSEDED, "result": {"best": {"decode": row, "load": {**row, "bound_log_ppm": 9}}}}  # fmt: skip
    return Deployment(model="tiny", tree=tree, **{**values, **more})


def test_without_deployments_prices_rest_on_the_installed_tree() -> None:
    assert best_of([]) == ""


def test_a_credited_tree_becomes_the_best_and_a_slower_one_does_not() -> None:
    gain, slower, regained = served("gain", 5), served("slower", -40), served("regained", 0)
    assert best_of([gain, slower, regained]) == "gain"
    assert best_of([gain, slower, served("more", 1)]) == "more"


def test_a_first_deployment_is_what_later_ones_are_compared_with() -> None:
    first = served("first", result={}, is_first=True)
    assert best_of([first]) == "first"
    assert best_of([first, served("gain", 3)]) == "gain"


def test_a_tree_that_was_rolled_back_or_put_back_does_not_count() -> None:
    gain = served("gain", 5)
    bad = served("bad", 9, state=DeploymentState.ROLLED_BACK)
    assert best_of([gain, bad]) == "gain"
    assert best_of([gain, bad, served("older", 7, is_rollback=True)]) == "gain"


def test_load_time_alone_is_no_saving() -> None:
    assert credited_lines(served("x", 0).result) == {}
    assert credited_lines(served("x", 4).result) == {"decode": 4}
    assert credited_lines({}) == {}


@given(st.lists(st.floats(0.5, 2.0), max_size=12))
def test_who_makes_it_slower_and_faster_again_is_credited_once(speeds: list[float]) -> None:
    """Honest canaries against the best tree: the credited gains add up to no more than the fastest tree's own."""
    speed_of, rows, credited = {"": 1.0}, list[Deployment](), 0.0
    for place, speed in enumerate(speeds):
        tree = f"tree {place}"
        speed_of[tree] = speed
        gain = speed - speed_of[best_of(rows)]
        credited += max(gain, 0.0)
        rows.append(served(tree, round(gain * 1_000_000)))
    bests = [best_of(rows[:count]) for count in range(len(rows) + 1)]
    assert all(speed_of[after] >= speed_of[before] for before, after in pairwise(bests))
    assert credited <= max(speed_of.values()) - 1.0 + 1e-5
