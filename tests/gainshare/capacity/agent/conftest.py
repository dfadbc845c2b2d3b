"""A site of the test's own, for agents that are tested without Django."""

from collections.abc import Iterator

import pytest

from tests.gainshare.capacity.agent.fake_site import FakeSite, fake_site


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with fake_site() as made:
        yield made
