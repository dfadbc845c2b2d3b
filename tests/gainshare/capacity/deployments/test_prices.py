"""The tree that prices rest on, over deployments of every kind."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sharing import savings
from gainshare.capacity.deployments.prices import history
from gainshare.capacity.models import Deployment, DeploymentState

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(days=365)


def served(tree: str, decode: int = 0, **more: Any) -> Deployment:
    """A deployment that served, with its bound on decode against the best tree of its time."""
    row = {"bound_log_ppm": decode, "estimate_log_ppm": decode, "pairs": 30}
    values = {"state": DeploymentState.SUPERSEDED, "result": {"best": {"decode": row, "load": {**row, "bound_log_ppm": 9}}}}  # fmt: skip
    return Deployment(model="tiny", tree=tree, **{**values, **more})


def in_order(rows: list[Deployment]) -> list[Deployment]:
    """The rows, each of which served a day after the one before it."""
    for day, row in enumerate(rows):
        row.serving_at = START + timedelta(days=day)
    return rows


def best_of(rows: list[Deployment]) -> str:
    return savings.best_tree(history(in_order(rows)), LATER)


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


def test_a_tree_that_was_found_bad_does_not_count_while_its_rollback_fails() -> None:
    found_at = START + timedelta(days=2)
    gain, bad = in_order(
        [served("gain", 5), served("bad", 9, state=DeploymentState.SERVING, watch_ended_at=found_at)]
    )
    assert [each.served.lost_at for each in history([gain, bad])] == [None, found_at]


def saved_lines(*rows: Deployment) -> list[dict[str, int]]:
    """What each row saves, as the levels that it reaches by line."""
    return [
        {line: saving.level_log_ppm for line, saving in each.savings.items()}
        for each in history(in_order(list(rows)))
    ]


def test_load_time_alone_is_no_saving() -> None:
    assert saved_lines(served("x", 0)) == [{}]
    assert saved_lines(served("x", 4)) == [{"decode": 4}]
    assert saved_lines(served("x", result={})) == [{}]


def test_what_a_tolerated_loss_gave_up_is_not_credited_again() -> None:
    """Cheaper in memory and a little slower is the best tree for a while; who mends its speed has saved nothing."""
    line = {"estimate_log_ppm": 0, "pairs": 30}
    traded = served("traded", result={"best": {"decode": {**line, "bound_log_ppm": -15_000}, "memory": {**line, "bound_log_ppm": 9}}})  # fmt: skip
    mended = served(
        "mended", result={"best": {"decode": {**line, "bound_log_ppm": 14_000}}}, plan={"best": "traded"}
    )
    assert best_of([traded]) == "traded"
    assert saved_lines(traded, mended)[1] == {}


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
