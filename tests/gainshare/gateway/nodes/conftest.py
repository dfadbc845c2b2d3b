"""Fixtures of the tests of a request's nodes: a customer, and two nodes that it may be sent to."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.utils import timezone

from gainshare.accounts.services import create_api_key
from gainshare.gateway.database import close_connections
from gainshare.gateway.nodes.sharing import pool_and_sharing
from gainshare.ledger.price_book import publish_price
from tests.gainshare.gateway.nodes.misbehaving import (
    GRANTED,
    MODEL,
    PRICES,
    Gateway,
    StandIn,
)
from tests.gainshare.ledger.ledger_world import World


@pytest.fixture
def connections_closed(transactional_db: None) -> Iterator[None]:
    yield
    close_connections()


@pytest.fixture
def customer(connections_closed: None) -> Gateway:
    world = World()
    world.grant(world.ann, GRANTED)
    publish_price(model=MODEL, effective_at=timezone.now(), actor=world.maintainer, **PRICES)
    _, raw = create_api_key(user=world.ann, name="test", scopes=["inference"])
    return Gateway(raw, world.ann)


@pytest_asyncio.fixture
async def nodes(settings: Any) -> AsyncIterator[tuple[StandIn, StandIn]]:
    """Two static nodes. The first is preferred, because the second seems to be used longer."""
    pair = (StandIn(), StandIn())
    for node in pair:
        await node.start()
    settings.MODEL_NODES = [node.url for node in pair]
    yield pair
    for node in pair:
        node.frozen = False
        node.go.set()
    pool, sharing = pool_and_sharing()
    await sharing.aclose()
    await pool.aclose()
    for node in pair:
        await node.server.close()
