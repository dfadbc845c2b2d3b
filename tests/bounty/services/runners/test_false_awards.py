"""The live rate of false gains, from A/A runs, on the page of runners and in REST."""

import pytest
from django.test import Client

from bounty.services.runners.false_awards import false_awards
from bounty.services.runners.maintenance import calibrate
from tests.bounty.bounty_world import World


def aa_run(world: World, speed_up_log: float) -> None:
    calibrate(actor=world.mira, name=world.runner.name)
    world.judge(speed_up_log)


def test_without_a_run_nothing_is_known(world: World) -> None:
    found = false_awards()
    assert (found.runs, found.rate_ppm, found.upper_bound_ppm) == (0, None, 1_000_000)
    assert "False gains" not in Client().get("/runners/").content.decode()


def test_runs_without_a_gain_bound_the_rate_from_above(world: World) -> None:
    aa_run(world, 0.0)
    found = false_awards()
    assert (found.runs, found.passed, found.rate_ppm) == (1, 0, 0)
    assert found.upper_bound_ppm == pytest.approx(950_000, abs=1)  # one run shows little: 1 - 0.05
    html = Client().get("/runners/").content.decode()
    assert "0 of 1 A/A runs" in html and "95.00" in html


def test_a_false_gain_is_counted_and_published(world: World) -> None:
    aa_run(world, 0.0)
    aa_run(world, 0.3)  # the runner is put into quarantine for it, and its result stays on record
    seen = Client().get("/api/v1/false-awards/").json()
    assert (seen["runs"], seen["passed"], seen["rate_ppm"]) == (2, 1, 500_000)
    assert 500_000 < seen["upper_bound_ppm"] < 1_000_000 and seen["confidence_percent"] == 95
