"""kill -9 of the web process at the moment when a request has left a node that failed and has no other one yet."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from django.utils import timezone

from gainshare.capacity.models import Seat
from gainshare.capacity.routing import seats
from gainshare.gateway import services
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import HoldState
from tests.gainshare.gateway.gateway_stack import (
    CREDIT,
    MODEL,
    GatewayStack,
    assert_ledger_holds,
    bill_of,
    eventually,
    hold_of,
    running_stack,
)
from tests.gainshare.gateway.nodes.misbehaving import PROMPT, StandIn
from tests.gainshare.gateway.stand_in_thread import stand_ins

pytestmark = [pytest.mark.slow, pytest.mark.long]

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
FAULT = "gateway.left_node"


@dataclass
class World:
    stack: GatewayStack
    nodes: list[StandIn]

    def web_with(self, fault: str, folder: Path) -> None:
        """A web process that kills itself at the fault point; once for each folder."""
        self.stack.web.stop()
        self.stack.web.environment |= {"GAINSHARE_FAULT": fault, "GAINSHARE_FAULT_DIR": str(folder)}
        self.stack.web.start()
        self.stack.web.wait_until_ready()


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    with django_db_blocker.unblock(), stand_ins(2) as nodes:
        urls = ",".join(node.url for node in nodes)
        with running_stack(folder, GAINSHARE_MODEL_NODES=urls) as stack:
            yield World(stack, nodes)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_web_process_killed_between_two_nodes_leaves_no_seat_hold_or_charge(
    world: World, is_stream: bool, tmp_path: Path
) -> None:
    customer = world.stack.customer()
    for node in world.nodes:
        node.answer = node.breaks_before
    world.web_with(FAULT, tmp_path)
    with pytest.raises((openai.APIConnectionError, openai.APIError)):
        asked = world.stack.client(customer.key).chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=5, stream=is_stream
        )
        list(asked)
    assert world.stack.web.child is not None
    assert world.stack.web.child.wait(timeout=30) == -signal.SIGKILL
    assert sum(node.n_asked for node in world.nodes) == 1  # the second one was never asked
    record = UsageRecord.objects.get(user=customer.user)
    assert (record.status, hold_of(record).state) == (RequestStatus.RUNNING, HoldState.OPEN)
    assert Seat.objects.filter(account=customer.user.pk).count() == 1

    # What comes next is answered once, while the dead process's seat and hold are still there.
    for node in world.nodes:
        node.answer, node.n_asked = node.whole, 0
    world.web_with("", tmp_path)
    whole = world.stack.client(customer.key).chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=5
    )
    assert whole.choices[0].finish_reason == "stop"
    assert sum(node.n_asked for node in world.nodes) == 1
    paid = world.stack.record(customer.user, status=RequestStatus.COMPLETED).charged_microcredits
    assert paid == bill_of(PROMPT, 2)

    for _ in range(2):
        seats.free_forgotten(now=timezone.now() + timedelta(minutes=1))
        services.settle_outstanding(now=record.expires_at + services.GRACE + timedelta(seconds=1))
        record.refresh_from_db()
        assert (record.status, record.error_code) == (RequestStatus.FAILED, "gateway_lost")
        assert (record.charged_microcredits, hold_of(record).state) == (0, HoldState.VOIDED)
        assert ledger.balance(customer.user).available == 10 * CREDIT - paid
    assert eventually(lambda: not Seat.objects.exists(), what="no seat is left")
    for node in world.nodes:
        node.n_asked = 0
    assert_ledger_holds()
