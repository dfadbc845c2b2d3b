"""Fixtures of the tests of reports: rows alone, and the same at the stand-in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from bounty.github.standin.control.standin import StandIn, running
from tests.bounty.bounty_world import World
from tests.bounty.github.reports.hosted import Hosted
from tests.bounty.github.reports.room import Room


@pytest.fixture
def room(world: World) -> Room:
    return Room(world)


@pytest.fixture
def standin(tmp_path: Path, settings: Settings) -> Iterator[StandIn]:
    with running(tmp_path / "standin") as made:
        for name, value in made.settings().items():
            setattr(settings, name, value)
        yield made


@pytest.fixture
def hosted(world: World, standin: StandIn) -> Hosted:
    return Hosted(world, standin=standin)
