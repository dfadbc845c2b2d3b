"""Fixture of the tests of pull requests."""

import pytest

from tests.bounty.github.conftest import Bound
from tests.bounty.github.pulls.pull_world import Pulls


@pytest.fixture
def pulls(bound: Bound) -> Pulls:
    return Pulls(bound)
