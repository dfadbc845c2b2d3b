"""The board of a series: cumulative speed, own steps, shared ranks, the record as a chart; on the page and in REST."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from django.test import Client
from rest_framework.test import APIClient

from bounty.pages.record_plot import HEIGHT, RecordPoint, plot_record, speed_ticks
from bounty.services.awards.lifecycle import void_award
from bounty.services.leaderboards import leaderboard, series_speeds
from gainshare.web.plot_parts import BOTTOM
from tests.bounty.bounty_world import World, diff_of_line

START = datetime(2026, 1, 1, tzinfo=UTC)


def page(path: str) -> str:
    return Client().get(path).content.decode()


def test_the_best_so_far_is_the_speed_of_the_series_not_its_largest_step(world: World) -> None:
    large = world.confirmed(world.ann, diff_of_line(1, "fast = 1"), 0.9)
    small = world.confirmed(world.bob, diff_of_line(3, "fast = 3"), 0.2)
    fastest, first = leaderboard(bounty=world.bounty)
    assert (fastest.submission, first.submission) == (small.pk, large.pk)
    assert (fastest.rank, first.rank) == (1, 2)
    assert fastest.log_ppm_reached == first.log_ppm_bound + fastest.log_ppm_bound
    assert first.log_ppm_reached == first.log_ppm_bound > fastest.log_ppm_bound
    assert first.log_ppm_bound <= first.log_ppm_estimate <= first.log_ppm_most
    html = page(f"/bounties/{world.bounty.pk}/")
    assert "2.99\N{MULTIPLICATION SIGN}" in html.partition("Best so far")[2][:200]
    assert f"by {world.bob.username}" in html
    assert "+145." in html and "2.99\N{MULTIPLICATION SIGN}" in page("/bounties/")


def test_gains_that_cannot_be_told_apart_share_a_rank(world: World) -> None:
    noisy = world.submit(world.ann, diff_of_line(1, "fast = 1"))
    world.gate(noisy, 0.9)
    world.gate(noisy, 0.9, noise_log=0.05)
    world.guard(noisy)
    world.confirmed(world.bob, diff_of_line(3, "fast = 3"), 0.02)
    places = leaderboard(bounty=world.bounty)
    assert len(places) == 2 and places[0].log_ppm_reached <= places[1].log_ppm_most
    assert [place.rank for place in places] == [1, 1]


def test_the_board_spans_the_bounties_of_its_series_and_no_other(world: World) -> None:
    world.confirmed(world.ann, diff_of_line(1, "fast = 1"), 0.5)
    second = world.open(title="More of it", rate_microcredits_per_nat=5_000_000)
    world.confirmed(world.bob, diff_of_line(3, "fast = 3"), 0.2, second)
    other = world.open(title="Another suite", suite="moe_backward")
    assert [place.bounty for place in leaderboard(bounty=world.bounty)] == [second.pk, world.bounty.pk]
    assert leaderboard(bounty=second) == leaderboard(bounty=world.bounty)
    assert leaderboard(bounty=other) == []
    speeds = series_speeds([world.bounty, second, other])
    reached = leaderboard(bounty=second)[0].log_ppm_reached
    assert speeds == {world.bounty.pk: reached, second.pk: reached, other.pk: None}
    assert "another bounty" in page(f"/bounties/{second.pk}/")


def test_a_gain_that_is_taken_back_takes_its_step_with_it(world: World) -> None:
    world.confirmed(world.ann, diff_of_line(1, "fast = 1"), 0.5)
    taken = world.confirmed(world.bob, diff_of_line(3, "fast = 3"), 0.2)
    before = leaderboard(bounty=world.bounty)[1]
    void_award(submission=taken, reason="it was a cheat")
    assert leaderboard(bounty=world.bounty) == [replace(before, rank=1)]


def test_no_one_is_on_the_board_before_the_award_is_booked(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(1, "fast = 1"))
    world.gate(submission, 0.9)
    world.gate(submission, 0.9)
    assert leaderboard(bounty=world.bounty) == [] and series_speeds([world.bounty])[world.bounty.pk] is None


def test_rest_tells_step_and_speed(world: World) -> None:
    world.confirmed(world.ann, diff_of_line(1, "fast = 1"), 0.9)
    world.confirmed(world.bob, diff_of_line(3, "fast = 3"), 0.2)
    rows = APIClient().get(f"/api/v1/bounties/{world.bounty.pk}/leaderboard/").json()
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["log_ppm_reached"] == rows[0]["log_ppm_bound"] + rows[1]["log_ppm_bound"]
    assert rows[0]["speed"] == pytest.approx(rows[0]["speed_up"] * rows[1]["speed_up"], rel=1e-3)
    assert rows[0]["bounty"] == str(world.bounty.pk)
    assert rows[0]["log_ppm_most"] >= rows[0]["log_ppm_reached"]


def points(*reached: int, every: timedelta = timedelta(days=3)) -> list[RecordPoint]:
    steps = [after - before for before, after in zip((0, *reached), reached, strict=False)]
    return [
        RecordPoint(START + number * every, log_ppm, log_ppm + 20_000, step, f"<b>p{number}</b>")
        for number, (log_ppm, step) in enumerate(zip(reached, steps, strict=True))
    ]


def test_the_record_has_a_dot_and_a_step_for_each_gain_and_says_so_in_words() -> None:
    svg = plot_record(points(100_000, 900_000, 1_098_613))
    root = ElementTree.fromstring(svg)
    circles = list(root.iter("circle"))
    assert len(circles) == 3 and "<b>" not in svg
    heights = [float(circle.get("cy", "nan")) for circle in circles]
    places = [float(circle.get("cx", "nan").removesuffix("%")) for circle in circles]
    assert heights == sorted(heights, reverse=True) and places == sorted(places)
    assert root.get("aria-label") == (
        "The record over time: 3 confirmed gains, 3.00\N{MULTIPLICATION SIGN} over the series' origin."
    )
    assert root.get("role") == "img" and root.get("viewBox") is None


@pytest.mark.parametrize(
    "reached", [(1,), (500, 900), (10_000, 15_000, 90_000), (2_302_585,), (100, 9_000_000), (20_000_000,)]
)
@pytest.mark.parametrize("every", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_everything_is_inside_the_picture(reached: tuple[int, ...], every: timedelta) -> None:
    svg = plot_record(points(*reached, every=every))
    assert "nan" not in svg and "inf" not in svg
    for circle in ElementTree.fromstring(svg).iter("circle"):
        assert 0 <= float(circle.get("cx", "nan").removesuffix("%")) <= 100
        assert 0 <= float(circle.get("cy", "nan")) <= HEIGHT - BOTTOM
    assert plot_record([]) == ""


@pytest.mark.parametrize("top", [1e-6, 0.004, 0.03, 0.2, 0.69, 1.1, 2.3, 5.0, 12.0])
def test_speeds_on_the_axis_are_few_round_and_reach_the_top(top: float) -> None:
    ticks = speed_ticks(top)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(ticks) and ticks[0] == 0.0
    assert ticks[-1] >= top - 1e-9
