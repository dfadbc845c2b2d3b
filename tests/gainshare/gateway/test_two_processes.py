"""Two real web processes, a static node and a node of the pool: shared limits, kill -9 of web and node, a frozen node."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import openai
import pytest

from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import Node, Seat
from gainshare.gateway.models import UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.models import Hold
from tests.gainshare.capacity.pool_world import make_class, make_host
from tests.gainshare.gateway.gateway_stack import (
    CREDIT,
    MODEL,
    Customer,
    GatewayStack,
    Process,
    assert_ledger_holds,
    bill_of,
    eventually,
    free_port,
    request_id_of,
    running_stack,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SLOTS = 2  # of the static node
POOL_SLOTS = 4  # of the pool's, as models have by default
ACCOUNT = 8
LONG = 400  # tokens
MANY = 6  # answers of one request: so many that a stream lasts until all others have begun
PATIENT_S = 60.0  # on a busy machine


@dataclass
class Pair:
    """The stack, its second web process, and the pool's node."""

    stack: GatewayStack
    other: GatewayStack
    node: Node
    process: Process

    def ask(self, customer: Customer, *, via: GatewayStack | None = None, **more: Any) -> Any:
        values = {"max_tokens": 2, "extra_body": {"ignore_eos": True}, **more}
        client = (via or self.stack).client(customer.key)
        return client.chat.completions.create(model=MODEL, messages=HELLO, **values)


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("gateway")
    limits = {"GAINSHARE_NODE_SLOTS": str(SLOTS), "GAINSHARE_ACCOUNT_REQUESTS": str(ACCOUNT)}
    with django_db_blocker.unblock(), running_stack(folder, **limits) as stack:
        host = make_host(make_class("spot"))
        port = free_port()
        fields = {"device": 0, "model": MODEL, "state": "ready", "reason": "test"}
        node = host.nodes.create(url=f"http://127.0.0.1:{port}", **fields)
        process = pool_node(folder, stack, node, port)
        web = second_web(folder, stack)
        try:
            process.start()
            web.start()
            process.wait_until_ready()
            web.wait_until_ready()
            other = replace_web(stack, web)
            yield Pair(stack, other, node, process)
        finally:
            web.stop()
            process.stop()


def pool_node(folder: Path, stack: GatewayStack, node: Node, port: int) -> Process:
    token = folder / "pool-token"
    token.write_text(node_token(node.pk))
    arguments = list(stack.node.arguments)
    arguments[arguments.index("--port") + 1] = str(port)
    arguments[arguments.index("--token-file") + 1] = str(token)
    return Process(arguments, stack.node.environment, folder / "pool.log", f"http://127.0.0.1:{port}/health")


def second_web(folder: Path, stack: GatewayStack) -> Process:
    port = free_port()
    arguments = list(stack.web.arguments)
    arguments[arguments.index("--port") + 1] = str(port)
    return Process(
        arguments, dict(stack.web.environment), folder / "web2.log", f"http://127.0.0.1:{port}/v1/models"
    )


def replace_web(stack: GatewayStack, web: Process) -> GatewayStack:
    other = GatewayStack(stack.folder, web, stack.node, web.health.removesuffix("/v1/models"))
    other.maintainer = stack.maintainer
    return other


class Stream:
    """A streamed answer read in a thread: its tokens, and how it ended."""

    def __init__(self, pair: Pair, customer: Customer, via: GatewayStack, *, n: int = 1) -> None:
        self.seen = 0
        self.request_id: UUID | None = None
        self.error: openai.OpenAIError | None = None
        self.is_over = threading.Event()
        self._begin = partial(pair.ask, customer, via=via, stream=True, max_tokens=LONG, n=n)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for chunk in self._begin():
                self.request_id = request_id_of(chunk)
                self.seen += bool(chunk.choices and chunk.choices[0].delta.role is None)
        except openai.OpenAIError as error:
            self.error = error
        except Exception as error:  # httpx: the connection broke
            self.error = openai.OpenAIError(str(error))
        finally:
            self.is_over.set()

    def has_begun(self) -> bool:
        return self.seen > 2 or self.is_over.is_set()

    def waits(self) -> bool:
        """Whether more of it is to come: what was on the way has arrived, and it has not ended."""
        seen = -1
        while seen != self.seen:
            seen = self.seen
            time.sleep(0.5)
        return not self.is_over.is_set()

    def end(self) -> None:
        assert self.is_over.wait(PATIENT_S)


def n_seats(**fields: Any) -> int:
    return Seat.objects.filter(**fields).count()


@contextmanager
def frozen(*processes: Process) -> Iterator[None]:
    """Stop these processes, and let those that still live continue afterwards."""
    for process in processes:
        assert process.child is not None
        process.child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            assert process.child is not None
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)


def test_limits_hold_over_both_processes_and_all_who_wait_are_answered(pair: Pair) -> None:
    customer, modest = pair.stack.customer(), pair.stack.customer()
    webs = [pair.stack, pair.other]
    streams = [Stream(pair, customer, webs[i % 2], n=MANY) for i in range(ACCOUNT)]
    eventually(lambda: n_seats() == ACCOUNT, within_s=PATIENT_S, what="all are seated")
    full = (SLOTS, POOL_SLOTS, ACCOUNT - SLOTS - POOL_SLOTS)
    static = pair.stack.node.health.removesuffix("/health")
    seen = (n_seats(node=static), n_seats(node=str(pair.node.pk)), n_seats(node=""))
    assert seen == full
    more = [Stream(pair, customer, webs[i % 2], n=MANY) for i in range(3 * ACCOUNT)]
    while not all(stream.has_begun() for stream in more):
        assert n_seats(account=customer.user.pk) <= ACCOUNT
        time.sleep(0.02)
    assert pair.ask(modest, via=pair.other).choices[0].finish_reason == "length"
    for stream in (*streams, *more):
        stream.end()
    refusals = [[stream.error for stream in more[i::2] if stream.error is not None] for i in range(2)]
    for refused in refusals:  # by each of the two processes
        assert refused
        for error in refused:
            assert isinstance(error, openai.RateLimitError) and error.code == "too_many_requests"
            assert error.response.headers["retry-after"] == "1"
    assert [stream.error for stream in streams] == [None] * ACCOUNT
    eventually(lambda: not n_seats(), what="no seat is left")
    records = UsageRecord.objects.filter(user=customer.user)
    assert {record.completion_tokens for record in records} == {MANY * LONG}
    assert {record.node for record in records} == {static, str(pair.node.pk)}
    assert {record.device_class for record in records} == {"", "spot"}
    assert_ledger_holds()


def test_a_killed_process_leaves_its_slots_to_the_other(pair: Pair) -> None:
    greedy, customer = pair.stack.customer(), pair.stack.customer()
    nodes = [pair.stack.node, pair.process]
    streams = [Stream(pair, greedy, pair.stack, n=MANY) for _ in range(SLOTS + POOL_SLOTS)]
    eventually(lambda: n_seats() == SLOTS + POOL_SLOTS, within_s=PATIENT_S)
    assert pair.stack.web.child is not None
    with frozen(*nodes):
        pair.stack.web.kill()  # the nodes stand still, so that nothing ends before
        assert n_seats() == SLOTS + POOL_SLOTS
    began = time.monotonic()
    assert pair.ask(customer, via=pair.other).choices[0].finish_reason == "length"
    assert time.monotonic() - began < PATIENT_S / 2
    eventually(lambda: not n_seats(), within_s=PATIENT_S, what="the dead process has no seat")
    for stream in streams:
        stream.end()
    pair.stack.web.start()
    pair.stack.web.wait_until_ready()
    assert pair.ask(customer).choices[0].finish_reason == "length"


def test_a_process_killed_between_hold_and_seat_leaves_neither(pair: Pair) -> None:
    customer = pair.stack.customer()
    pair.other.web.stop()
    pair.other.web.environment["GAINSHARE_FAULT"] = "gateway.before_seat"
    pair.other.web.start()
    pair.other.web.wait_until_ready()
    with pytest.raises(openai.APIConnectionError):
        pair.ask(customer, via=pair.other)
    assert pair.other.web.child is not None
    assert pair.other.web.child.wait(timeout=20) == -signal.SIGKILL
    assert not n_seats(account=customer.user.pk)
    assert not Hold.objects.filter(user=customer.user).exists()
    assert not UsageRecord.objects.filter(user=customer.user).exists()
    assert ledger.balance(customer.user).available == 10 * CREDIT
    pair.other.web.start()
    pair.other.web.wait_until_ready()
    pair.ask(customer, via=pair.other)
    assert n_seats(account=customer.user.pk) == 0


def begun_at_the_pools_node(pair: Pair, customer: Customer) -> Stream | None:
    """A stream that the pool's node has begun: one of more than the static node has slots for. None: all were too fast."""
    streams = [Stream(pair, customer, pair.stack, n=MANY) for _ in range(SLOTS + 1)]
    for stream in streams:
        eventually(stream.has_begun, within_s=PATIENT_S)
    for stream in streams:
        if n_seats(pk=stream.request_id, node=str(pair.node.pk)) and not stream.is_over.is_set():
            return stream
    return None


def test_a_frozen_node_fails_no_request_without_a_token_and_its_kill_cuts_only_what_it_had_begun(
    pair: Pair,
) -> None:
    early, customer = pair.stack.customer(), pair.stack.customer()
    for _ in range(10):
        stream = begun_at_the_pools_node(pair, early)
        with frozen(pair.process), ThreadPoolExecutor(6) as pool:
            if stream is None or not stream.waits():
                continue
            asking: list[Future[Any]] = [
                pool.submit(pair.ask, customer, via=(pair.stack, pair.other)[i % 2]) for i in range(6)
            ]
            answers = [asked.result(timeout=PATIENT_S) for asked in asking]
            assert [answer.choices[0].finish_reason for answer in answers] == ["length"] * 6
            pair.process.kill()
            stream.end()
            break
    else:
        raise AssertionError("each stream ended before its node was stopped")
    assert isinstance(stream.error, openai.APIError) and stream.error.code == "node_failed"
    record = eventually(
        lambda: UsageRecord.objects.filter(pk=stream.request_id, settled_at__isnull=False).first()
    )
    assert (record.status, record.error_code) == ("failed", "node_failed")
    assert (record.node, record.device_class) == (str(pair.node.pk), "spot")
    assert 0 < record.completion_tokens < MANY * LONG
    assert record.charged_microcredits == bill_of(record.prompt_tokens, record.completion_tokens)
    assert UsageRecord.objects.filter(user=customer.user, status="completed").count() == 6
    pair.process.start()
    pair.process.wait_until_ready()
    eventually(lambda: answers_at(pair, customer), within_s=PATIENT_S, what="the node gets requests again")
    eventually(lambda: not n_seats(), within_s=PATIENT_S)
    assert_ledger_holds()


def answers_at(pair: Pair, customer: Customer) -> bool:
    """Whether the pool's node answers one of more requests at once than the static node has slots for."""
    with ThreadPoolExecutor(SLOTS + 2) as pool:
        for asked in [pool.submit(pair.ask, customer, max_tokens=50) for _ in range(SLOTS + 2)]:
            asked.result(timeout=PATIENT_S)
    newest = UsageRecord.objects.filter(user=customer.user).order_by("-created_at")[: SLOTS + 2]
    return str(pair.node.pk) in {record.node for record in newest}
