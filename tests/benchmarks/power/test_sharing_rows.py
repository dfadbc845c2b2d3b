"""No way to play for royalties pays more than honest play, and the rows can tell one that would."""

import pytest

from benchmarks.power.sharing import QUANTILE, Deployed, paid, sharing_rows, until_seen
from benchmarks.report import Row

RUNS = 150
TRICKS = (
    "split into", "held back", "a loss put in and mended", "rolled back and deployed again", "own traffic",
    "a true gain of 0 drawn again", "an unrelated gain in the same deployment", "a push of", "starter credits", "granted credits", "earned credits", "in 5 names", "canary-only", "below the clock's margin",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(sharing_rows(RUNS))


def test_no_trick_pays(rows: list[Row]) -> None:
    assert [row.name for row in rows if not row.holds] == []


@pytest.mark.parametrize("trick", TRICKS)
def test_each_trick_has_a_row(rows: list[Row], trick: str) -> None:
    assert any(trick in row.name for row in rows)


def test_wash_traffic_returns_a_fifth_and_given_credits_nothing(rows: list[Row]) -> None:
    back = {row.name: row.value for row in rows if "traffic" in row.name}
    assert sorted(back.values()) == [0.0, 0.0, 0.0, 0.2]  # type: ignore[type-var]


def test_a_second_gain_would_be_seen() -> None:
    """What the mended tree would earn if it were booked as a gain of its own, and the loss had lowered the level."""
    honest = paid([Deployed("a", 0.2, 0, "a")], 0.0, [0.0])
    twice = paid([Deployed("a", 0.2, 0, "a"), Deployed("b", 0.3, 1, "b")], 0.0, [0.0, 0.0])
    assert twice > 1.3 * honest


def test_a_lucky_second_draw_pays_no_more() -> None:
    unlucky_then_lucky = [Deployed("a0", 0.1, 0, "a", 1), Deployed("a1", 0.1, 1, "a")]
    honest = paid([Deployed("a", 0.1, 0, "a")], 0.01, [0.0])
    assert paid(unlucky_then_lucky, 0.01, [0.0, 0.05]) <= honest


def test_a_gain_without_effect_has_one_draw() -> None:
    lucky, unlucky = 2 * QUANTILE * 0.01, 0.0
    assert until_seen(0.01, [lucky]) > 0
    assert until_seen(0.01, [unlucky, lucky]) == 0
