"""The whole local stack, for real: embedded servers, web, workers, runner and a model node with random weights.

`stack` is one stack for the session, started at first need. `start_stack` makes further ones for tests that need
their own settings or must not disturb others.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.running_stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One stack for all tests of the session that leave it in order."""
    running = Stack()
    yield running
    running.remove()


@pytest.fixture(autouse=True)
def disarmed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").disarm()


@pytest.fixture
def start_stack() -> Iterator[Callable[..., Stack]]:
    """Starts stacks of a test's own: `start_stack(GAINSHARE_HOLD_S="3")`."""
    started: list[Stack] = []

    def start(**options: Any) -> Stack:
        started.append(Stack(**options))
        return started[-1]

    yield start
    for running in started:
        running.remove()
