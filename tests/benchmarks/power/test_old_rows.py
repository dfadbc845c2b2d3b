"""The power table's rows of old pairs: false stops, and what a base that keeps half of its gain lets the next patch earn."""

from benchmarks.power.cells import noise_cells
from benchmarks.power.old_pairs import FALSE_TARGET, MOST_PAID_AGAIN, PAID, half_row, old_rows


def test_a_comment_patch_over_a_base_that_keeps_half_is_paid_at_most_half_again() -> None:
    row = half_row(300)
    assert row.holds is True and row.target == f"<= {MOST_PAID_AGAIN}"
    assert isinstance(row.value, float)
    assert 0.4 < row.value <= MOST_PAID_AGAIN  # no small thing, so it is printed
    assert all(f"where {paid:.0%} was paid" in row.how for paid in PAID)


def test_the_row_follows_those_of_false_stops_and_of_bases_found() -> None:
    exact, *rows = old_rows(200)
    assert exact.holds is True and float(exact.value or 1) <= FALSE_TARGET
    assert len(rows) == 2 * len(noise_cells()) + 1
    assert rows[-1].name.startswith("slow base that keeps 50%")
