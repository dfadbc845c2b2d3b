"""Fixture of the tests of events: a repository at the stand-in for GitHub."""

import pytest

from bounty.github.standin.control.standin import StandIn
from tests.bounty.bounty_world import World
from tests.bounty.github.pulls.hub_world import HubWorld


@pytest.fixture
def hub(world: World, standin: StandIn) -> HubWorld:
    return HubWorld(world, standin)
