"""Fixture of the tests of pull requests."""

import pytest

from bounty.github.standin.control.standin import StandIn
from tests.bounty.bounty_world import World
from tests.bounty.github.conftest import Bound
from tests.bounty.github.pulls.hub_world import HubWorld
from tests.bounty.github.pulls.pull_world import Pulls


@pytest.fixture
def pulls(bound: Bound) -> Pulls:
    return Pulls(bound)


@pytest.fixture
def hub(world: World, standin: StandIn) -> HubWorld:
    return HubWorld(world, standin)
