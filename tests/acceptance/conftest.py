"""The whole local stack, for real: embedded servers, web, workers, runner and a model node with random weights.

`stack` is one stack for the session, started at first need. `start_stack` makes further ones for tests that need
their own settings or must not disturb others.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.deployed_stack import Deployments
from tests.acceptance.elastic_load import Load, customer
from tests.acceptance.running_stack import Stack, wait_for


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


@pytest.fixture
def deployments(start_stack: Callable[..., Stack]) -> Deployments:
    """A stack of the test's own with a served model on one node."""
    found = Deployments(start_stack(devices=1))
    wait_for(lambda: found.pool.ready(), within_s=300, what="the first node")
    return found


@pytest.fixture
def load(deployments: Deployments) -> Iterator[Load]:
    """Two customers who ask that model without a pause."""
    running = Load(
        deployments.stack,
        [customer(deployments.stack, f"load-{number}") for number in range(2)],
        max_tokens=40,
    )
    running.start(2)
    running.set(2, pause_s=0.2)
    yield running
    running.stop()
