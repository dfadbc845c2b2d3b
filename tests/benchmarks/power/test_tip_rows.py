"""The power table's rows of scheduled checks: their false stops are exact, and most lost gains are found."""

from benchmarks.power.cells import noise_cells
from benchmarks.power.old_pairs import tip_rows
from benchmarks.statistics.tip import CHECKS_PROMISED, STOP_ERROR


def test_the_rows_state_the_promise_and_find_a_tree_that_lost_its_gain() -> None:
    promise, *found = tip_rows(300)
    assert promise.holds is True and promise.value == round(float(CHECKS_PROMISED * STOP_ERROR), 6)
    assert len(found) == len(list(noise_cells()))
    shares = [row.value for row in found]
    assert all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
    assert max(float(share) for share in shares if share is not None) > 0.95
