"""The draw of random re-measurements, and the evaluation of their results. Pure."""

from uuid import UUID, uuid4

import pytest

from bounty.rechecking import doubt, is_drawn

FOUND = "found"


def drawn(percent: int, secret: str = "s" * 50, many: int = 4000) -> list[UUID]:
    ids = [UUID(int=number) for number in range(many)]
    return [one for one in ids if is_drawn(secret=secret, submission_id=one, percent=percent)]


@pytest.mark.parametrize("percent", [10, 50])
def test_about_as_many_are_drawn_as_asked(percent: int) -> None:
    spread = 5 * (4000 * percent / 100 * (1 - percent / 100)) ** 0.5  # five standard deviations
    assert abs(len(drawn(percent)) - 40 * percent) < spread


def test_none_is_drawn_at_zero_and_all_at_a_hundred() -> None:
    assert drawn(0) == [] and len(drawn(100)) == 4000


def test_the_draw_is_the_same_every_time_and_another_with_another_secret() -> None:
    assert drawn(10) == drawn(10)
    assert drawn(10) != drawn(10, "t" * 50)
    assert set(drawn(10)) < set(drawn(50))


def test_a_share_is_a_percentage() -> None:
    with pytest.raises(ValueError, match="per cent"):
        is_drawn(secret="s", submission_id=uuid4(), percent=101)


@pytest.mark.parametrize(
    ("estimate", "is_fine"), [(300_000, True), (100_000, True), (99_999, False), (1, False)]
)
def test_half_of_the_confirmed_bound_must_be_found(estimate: int, is_fine: bool) -> None:
    found = doubt(confirmed_bound_log_ppm=200_000, kind="gain", estimate_log_ppm=estimate, reason=FOUND)
    assert (found == "") is is_fine


@pytest.mark.parametrize("kind", ["no_gain", "regression", "wrong_output", "policy_violation", "suspicious"])
def test_anything_but_a_gain_is_a_doubt_with_its_reason(kind: str) -> None:
    found = doubt(confirmed_bound_log_ppm=200_000, kind=kind, estimate_log_ppm=190_000, reason="Because.")
    assert kind.replace("_", " ") in found and "Because." in found


def test_the_platforms_failure_is_no_doubt() -> None:
    assert not doubt(
        confirmed_bound_log_ppm=200_000, kind="infrastructure_error", estimate_log_ppm=None, reason=""
    )
