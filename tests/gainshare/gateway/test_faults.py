"""The gateway when its parts die: kill -9 of node and web, a frozen node, a database that goes away for a moment.

Whatever happens, no hold stays open, delivered tokens are billed once, and the ledger's invariants hold.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import openai
import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from gainshare.accounts.services import revoke_api_key
from gainshare.capacity.models import Seat
from gainshare.gateway import services
from gainshare.gateway.generation import PROGRESS_S
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.tasks import settle_outstanding_requests
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import HoldState
from gainshare.ledger.models import Hold
from tests.gainshare.gateway.gateway_stack import (
    CREDIT,
    MODEL,
    Customer,
    GatewayStack,
    assert_ledger_holds,
    bill_of,
    hold_of,
    running_stack,
)

pytestmark = pytest.mark.slow

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
HOLD_S = 30


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[GatewayStack]:
    folder = tmp_path_factory.mktemp("gateway")
    with django_db_blocker.unblock(), running_stack(folder, GAINSHARE_HOLD_S=str(HOLD_S)) as running:
        yield running


@pytest.fixture
def customer(stack: GatewayStack) -> Customer:
    return stack.customer()


LONG = 480  # tokens


class LongAnswer:
    """A streamed answer of `max_tokens` tokens. `seen` counts the tokens that arrived, also up to a failure."""

    def __init__(self, stack: GatewayStack, customer: Customer, max_tokens: int = LONG) -> None:
        self.seen = 0
        self._chunks = stack.client(customer.key).chat.completions.create(
            model=MODEL,
            messages=HELLO,
            stream=True,
            max_tokens=max_tokens,
            extra_body={"ignore_eos": True},
        )

    def read(self, tokens: int = 1000) -> int:
        """Read on until this many tokens were seen in all, or to the end; how many were."""
        for chunk in self._chunks:
            self.seen += bool(chunk.choices and chunk.choices[0].delta.role is None)
            if self.seen == tokens:
                break
        return self.seen


def beat(now: datetime | None = None) -> None:
    """Run beat's repairs of the ledger and the gateway, at another time if given."""
    at = now or timezone.now()
    ledger.expire_holds(now=at)
    services.settle_outstanding(now=at)


@contextmanager
def web_with(stack: GatewayStack, **variables: str) -> Iterator[None]:
    """A web process with these environment variables on top; the usual one again afterwards."""
    usual = dict(stack.web.environment)
    stack.web.stop()
    stack.web.environment.update(variables)
    stack.web.start()
    stack.web.wait_until_ready()
    try:
        yield
    finally:
        stack.web.environment = usual
        stack.web.stop()
        stack.web.start()
        stack.web.wait_until_ready()


@contextmanager
def node_stopped(stack: GatewayStack) -> Iterator[None]:
    """Freeze the node, and let it continue afterwards."""
    assert stack.node.child is not None
    os.kill(stack.node.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(stack.node.child.pid, signal.SIGCONT)


@contextmanager
def node_killed(stack: GatewayStack) -> Iterator[None]:
    """Kill the node; afterwards start a new one, and wait until the gateway, which skips a dead one for a second, uses it."""
    stack.node.kill()
    try:
        yield
    finally:
        stack.node.start()
        stack.node.wait_until_ready()
        stack.wait_until_served()


def broken_off(
    stack: GatewayStack,
    customer: Customer,
    harmed: Callable[[GatewayStack], AbstractContextManager[None]],
) -> tuple[LongAnswer, openai.APIError]:
    """An answer whose node was harmed while it wrote, and how its stream ended. A fast node may be done before: again then."""
    for _ in range(10):
        answer = LongAnswer(stack, customer)
        answer.read(5)
        with harmed(stack):
            try:
                answer.read()
            except openai.APIError as error:
                return answer, error
        assert answer.seen == LONG, "the stream ended as if it were whole"
    raise AssertionError("the node was done each time before it was harmed")


def test_a_killed_node_ends_the_stream_with_an_error_and_bills_what_came(
    stack: GatewayStack, customer: Customer
) -> None:
    answer, error = broken_off(stack, customer, node_killed)
    assert error.code == "node_failed"
    seen = answer.seen
    assert f"the {seen} tokens you received" in error.message
    record = stack.record(customer.user, status="failed")
    assert (record.status, record.error_code, record.completion_tokens) == ("failed", "node_failed", seen)
    assert record.charged_microcredits == bill_of(record.prompt_tokens, seen)
    with node_killed(stack), pytest.raises(openai.InternalServerError) as away:
        LongAnswer(stack, customer)
    assert (away.value.status_code, away.value.code) == (503, "service_unavailable")
    assert away.value.response.headers["x-should-retry"] == "true"
    patient = stack.client(customer.key, max_retries=5)
    whole = patient.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
    assert whole.choices[0].finish_reason in {"length", "stop"}
    assert_ledger_holds()


def test_a_node_killed_before_a_whole_answer_costs_nothing(stack: GatewayStack, customer: Customer) -> None:
    """Frozen first, so that it surely dies before the answer is complete."""
    assert stack.node.child is not None
    os.kill(stack.node.child.pid, signal.SIGSTOP)
    killer = threading.Timer(1.0, stack.node.kill)
    killer.start()
    try:
        with pytest.raises(openai.InternalServerError):
            stack.client(customer.key).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=300)
    finally:
        killer.join()
        stack.node.start()
        stack.node.wait_until_ready()
    assert ledger.balance(customer.user).available == 10 * CREDIT
    assert not Hold.objects.filter(user=customer.user, state=HoldState.OPEN).exists()


def test_a_node_that_stops_answering_is_left_when_the_hold_runs_out(
    stack: GatewayStack, customer: Customer
) -> None:
    with web_with(stack, GAINSHARE_HOLD_S="10"):  # the margin for settling is a tenth of it
        answer, error = broken_off(stack, customer, node_stopped)
    assert error.code == "timeout"
    record = stack.record(customer.user, status="failed")
    assert (record.error_code, record.completion_tokens) == ("timeout", answer.seen)
    assert record.charged_microcredits == bill_of(record.prompt_tokens, answer.seen)
    assert hold_of(record).state == HoldState.SETTLED
    assert record.settled_at is not None and record.settled_at < record.expires_at


@pytest.mark.parametrize(
    "fault", ["gateway.held", "gateway.first_token", "gateway.streaming", "gateway.before_settle"]
)
def test_a_killed_web_process_leaves_no_hold_open(
    stack: GatewayStack, customer: Customer, fault: str
) -> None:
    """Nothing was noted of so short an answer, so the request costs nothing."""
    with web_with(stack, GAINSHARE_FAULT=fault):
        with pytest.raises((openai.APIConnectionError, openai.APIError)):
            LongAnswer(stack, customer, max_tokens=20).read()
        assert stack.web.child is not None
        assert stack.web.child.wait(timeout=10) == -signal.SIGKILL
    record = UsageRecord.objects.get(user=customer.user)
    assert record.status == RequestStatus.RUNNING
    assert hold_of(record).state == HoldState.OPEN
    beat()
    assert hold_of(record).state == HoldState.OPEN  # the process might still be there
    beat(record.expires_at + services.GRACE + timedelta(seconds=1))
    record.refresh_from_db()
    assert (record.status, record.error_code) == (RequestStatus.FAILED, "gateway_lost")
    assert record.settled_at is not None and record.charged_microcredits == 0
    assert hold_of(record).state == HoldState.VOIDED
    assert ledger.balance(customer.user).available == 10 * CREDIT
    assert_ledger_holds()


def test_a_web_process_killed_in_the_middle_of_a_stream_is_paid_for_what_it_noted(
    stack: GatewayStack, customer: Customer
) -> None:
    """The node stands still while the process dies, so that all it had sent is noted and nothing comes after it."""
    with web_with(stack, GAINSHARE_FAULT="gateway.progress_noted"):
        answer, _ = broken_off(stack, customer, node_stopped)
        assert stack.web.child is not None
        assert stack.web.child.wait(timeout=10) == -signal.SIGKILL
    record = UsageRecord.objects.get(user=customer.user, status=RequestStatus.RUNNING)
    noted = record.completion_tokens
    assert 0 < noted <= answer.seen
    before = ledger.balance(customer.user).available + record.hold_microcredits
    beat(record.expires_at + timedelta(seconds=1))
    assert hold_of(record).state == HoldState.OPEN  # the process might still be there
    for _ in range(2):
        beat(record.expires_at + services.GRACE + timedelta(seconds=1))
        record.refresh_from_db()
        assert (record.status, record.error_code) == (RequestStatus.FAILED, "gateway_lost")
        assert record.charged_microcredits == bill_of(record.prompt_tokens, noted) > 0
        assert hold_of(record).settled == record.charged_microcredits
        assert ledger.balance(customer.user).available == before - record.charged_microcredits
    assert_ledger_holds()


def revoked_while_it_writes(stack: GatewayStack) -> tuple[Customer, LongAnswer, openai.APIError]:
    """An answer whose key is revoked while its node stands still, and how its stream ended. As above, again where the node was done before."""
    for _ in range(10):
        customer = stack.customer()
        answer = LongAnswer(stack, customer)
        answer.read(5)
        with node_stopped(stack):
            revoke_api_key(user=customer.user, prefix=customer.prefix)
            time.sleep(2.5 * PROGRESS_S)
        try:
            answer.read()
        except openai.APIError as error:
            return customer, answer, error
        assert answer.seen == LONG, "the stream ended as if it were whole"
    raise AssertionError("the node was done each time before it was stopped")


def test_a_revoked_key_ends_the_answer_that_is_being_written(stack: GatewayStack) -> None:
    customer, answer, error = revoked_while_it_writes(stack)
    assert error.code == "invalid_api_key"
    assert "revoked" in error.message
    record = stack.record(customer.user)
    assert (record.status, record.error_code) == (RequestStatus.CANCELLED, "invalid_api_key")
    assert record.completion_tokens == answer.seen < LONG
    assert record.charged_microcredits == bill_of(record.prompt_tokens, answer.seen)
    assert_ledger_holds()


def test_a_bill_that_was_recorded_is_settled_by_beat_after_a_kill(
    stack: GatewayStack, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_with(stack, GAINSHARE_FAULT="gateway.recorded"):
        with pytest.raises((openai.APIConnectionError, openai.APIError)):
            LongAnswer(stack, customer, max_tokens=20).read()
        record = UsageRecord.objects.get(user=customer.user)
        assert (record.status, record.settled_at) == (RequestStatus.COMPLETED, None)
        assert record.billed_microcredits == bill_of(record.prompt_tokens, 20)
        settle_outstanding_requests()
        settle_outstanding_requests()
    record.refresh_from_db()
    assert record.charged_microcredits == record.billed_microcredits
    assert hold_of(record).settled == record.billed_microcredits
    assert ledger.balance(customer.user).available == 10 * CREDIT - record.billed_microcredits
    assert_ledger_holds()


@contextmanager
def database_away() -> Iterator[None]:
    """Refuse connections to the gateway's database, and end the existing ones."""
    settings = connection.settings_dict
    name = settings["NAME"]
    connection.close()
    arguments = {"host": settings["HOST"], "user": settings["USER"], "password": settings["PASSWORD"]}
    with psycopg.connect(dbname="postgres", autocommit=True, **arguments) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def test_a_database_that_is_away_when_the_stream_ends_is_asked_again(
    stack: GatewayStack, customer: Customer
) -> None:
    answer = LongAnswer(stack, customer)
    answer.read(3)
    with database_away():
        answer.read()  # the answer arrives whole all the same
        with pytest.raises(openai.InternalServerError) as caught:
            LongAnswer(stack, customer)
        assert caught.value.status_code == 503
    record = stack.record(customer.user)
    assert (record.status, answer.seen) == (RequestStatus.COMPLETED, LONG)
    assert not Seat.objects.filter(account=customer.user.pk).exists()
    assert record.charged_microcredits == bill_of(record.prompt_tokens, LONG)
    assert hold_of(record).settled == record.charged_microcredits
    assert_ledger_holds()


def test_settling_again_changes_nothing(stack: GatewayStack, customer: Customer) -> None:
    LongAnswer(stack, customer, max_tokens=6).read()
    record = stack.record(customer.user)
    again = Metered(prompt_tokens=record.prompt_tokens, completion_tokens=1)
    assert not services.record_outcome(request_id=record.pk, status=RequestStatus.CANCELLED, metered=again)
    services.settle(request_id=record.pk)
    after = UsageRecord.objects.get(pk=record.pk)
    assert (after.status, after.completion_tokens) == (RequestStatus.COMPLETED, 6)
    assert after.settled_at == record.settled_at
    assert ledger.balance(customer.user).available == 10 * CREDIT - record.charged_microcredits
