"""Seats over several processes: limits that hold under races, the order of waiting, and what a dead process leaves."""

from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from gainshare.capacity.models import Arrivals, CachedBlock, OutputHistory, Seat, ServedModel, WebProcess
from gainshare.capacity.routing import exchange, seats
from gainshare.capacity.routing.analysis import expected_output
from gainshare.capacity.routing.exchange import HeldSeat
from gainshare.capacity.routing.load import load_of, step_of
from gainshare.capacity.routing.outbox import Outbox, Served
from gainshare.capacity.routing.promises import Broken, Promise
from gainshare.capacity.routing.rates import Rates, measured, window_of
from gainshare.capacity.routing.seats import (
    AccountFull,
    Candidate,
    QueueFull,
    SeatGone,
    SeatRequest,
    free,
    give_node,
    leave_node,
    take,
)
from tests.gainshare.capacity.pool_world import MODEL, make_class, make_host, race

ONE, TWO = uuid4(), uuid4()  # web processes
NODES = (Candidate("a", 2), Candidate("b", 2))
KEPT, LATE = Broken(is_late=False, is_slow=False), Broken(is_late=True, is_slow=False)
SLOW, BOTH = Broken(is_late=False, is_slow=True), Broken(is_late=True, is_slow=True)


def asked(**changes: Any) -> SeatRequest:
    values: dict[str, Any] = {
        "process": ONE,
        "account": 1,
        "model": MODEL,
        "priority": 0,
        "prompt_tokens": 10,
        "expected_tokens": 5,
        "account_limit": 100,
        "queue_limit": 100,
        "nodes": NODES,
    }
    return SeatRequest(**{**values, **changes})


def seated(**changes: Any) -> UUID:
    """The id of a request that was just seated."""
    request_id = uuid4()
    take(request_id=request_id, asked=asked(**changes))
    return request_id


def outcome(request: SeatRequest) -> str:
    """Take a seat in a transaction of its own: the node, or the name of the refusal."""
    try:
        with transaction.atomic():
            return take(request_id=uuid4(), asked=request)
    except (AccountFull, QueueFull) as refused:
        return type(refused).__name__


def at_nodes() -> Counter[str]:
    return Counter(Seat.objects.values_list("node", flat=True))


def as_old(process: UUID, seconds: float) -> None:
    WebProcess.objects.filter(pk=process).update(seen_at=timezone.now() - timedelta(seconds=seconds))


@pytest.mark.django_db(transaction=True)
def test_a_nodes_slots_hold_when_two_processes_fill_it_at_once() -> None:
    calls = [partial(outcome, asked(process=process, account=i)) for i in range(6) for process in (ONE, TWO)]
    got = Counter(race(*calls))
    assert got == {"a": 2, "b": 2, "": 8}
    assert at_nodes() == got


@pytest.mark.django_db(transaction=True)
def test_an_account_that_opens_many_streams_gets_its_limit_over_all_processes() -> None:
    many = (Candidate("a", 1000),)
    calls = [
        partial(outcome, asked(process=process, account_limit=5, nodes=many))
        for _ in range(8)
        for process in (ONE, TWO)
    ]
    assert Counter(race(*calls)) == {"a": 5, "AccountFull": 11}
    assert outcome(asked(account=2, account_limit=5, nodes=many)) == "a"


@pytest.mark.django_db(transaction=True)
def test_the_queue_in_front_is_bounded() -> None:
    calls = [partial(outcome, asked(account=i, queue_limit=3)) for i in range(12)]
    assert Counter(race(*calls)) == {"a": 2, "b": 2, "": 3, "QueueFull": 5}
    assert Seat.objects.count() == 7


@pytest.mark.django_db(transaction=True)
def test_a_free_slot_is_given_once_when_all_who_wait_ask_for_it() -> None:
    running = [seated(account=i) for i in range(4)]
    waiting = [seated(account=i, process=(ONE, TWO)[i % 2]) for i in range(4, 12)]
    free(running[:2])
    got = race(*[partial(give_node, request_id=request_id, nodes=NODES) for request_id in waiting])
    assert Counter(got) == {"a": 2, "": 6}
    assert [bool(node) for node in got] == [True, True, *[False] * 6]  # those that came first


@pytest.mark.django_db
class TestOneConnection:
    def test_a_repeated_call_takes_one_seat(self) -> None:
        request_id = uuid4()
        first = [take(request_id=request_id, asked=asked(account_limit=1)) for _ in range(3)]
        assert first == ["a", "a", "a"]
        assert Seat.objects.count() == 1

    def test_the_preferred_node_is_taken_and_the_next_one_when_it_is_full(self) -> None:
        got = [take(request_id=uuid4(), asked=asked(nodes=tuple(reversed(NODES)))) for _ in range(5)]
        assert got == ["b", "b", "a", "a", ""]

    def test_a_rolled_back_admission_leaves_no_seat(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            seated()
            _ = 1 / 0
        assert not Seat.objects.exists()

    def test_no_one_passes_those_who_wait(self) -> None:
        running = [seated(account=i) for i in range(4)]
        waiting = seated(account=9)
        free(running[:1])
        assert take(request_id=uuid4(), asked=asked(account=10)) == ""
        assert give_node(request_id=waiting, nodes=NODES) == "a"

    def test_the_account_with_fewer_running_requests_gets_the_next_node(self) -> None:
        running = [seated(account=1) for _ in range(4)]
        greedy, modest = seated(account=1), seated(account=2)
        free(running[:1])
        assert give_node(request_id=greedy, nodes=NODES) == ""
        assert give_node(request_id=modest, nodes=NODES) == "a"

    def test_low_priority_waits_behind_others(self) -> None:
        running = [seated(account=i) for i in range(4)]
        low, normal = seated(account=5, priority=-10), seated(account=6)
        free(running[:1])
        assert give_node(request_id=low, nodes=NODES) == ""
        assert give_node(request_id=normal, nodes=NODES) == "a"

    def test_a_waiting_request_of_a_silent_process_holds_no_one_up(self) -> None:
        running = [seated(account=i) for i in range(4)]
        seated(account=5, process=TWO)
        mine = seated(account=6)
        free(running[:1])
        as_old(TWO, 4)
        assert give_node(request_id=mine, nodes=NODES) == "a"

    def test_a_moved_request_keeps_its_place_in_the_queue(self) -> None:
        first = seated(account=1)
        others = [seated(account=i) for i in range(2, 6)]
        assert leave_node(request_id=first, node="a")
        assert not leave_node(request_id=first, node="a")
        late = others[-1]
        assert Seat.objects.get(pk=late).node == ""
        only_a = NODES[:1]
        assert give_node(request_id=late, nodes=only_a) == ""
        assert give_node(request_id=first, nodes=only_a) == "a"

    def test_a_request_with_a_first_token_never_moves(self) -> None:
        request_id = seated()
        Seat.objects.update(first_token_at=timezone.now())
        assert not leave_node(request_id=request_id, node="a")
        assert Seat.objects.get().node == "a"

    def test_a_freed_seat_gets_no_node(self) -> None:
        with pytest.raises(SeatGone):
            give_node(request_id=uuid4(), nodes=NODES)

    def test_a_node_of_another_model_has_its_own_slots(self) -> None:
        for i in range(4):
            seated(account=i)
        assert take(request_id=uuid4(), asked=asked(model="other", nodes=(Candidate("c", 1),))) == "c"

    def test_a_dead_process_loses_its_seats_and_a_living_one_keeps_them(self) -> None:
        lost, kept = seated(process=TWO), seated(process=ONE)
        as_old(TWO, seats.LEASE_S + 1)
        assert seats.free_lost(silent_since=timezone.now() - timedelta(seconds=seats.LEASE_S)) == 1
        assert list(Seat.objects.values_list("pk", flat=True)) == [kept]
        assert not WebProcess.objects.filter(pk=TWO).exists()
        with pytest.raises(SeatGone):
            give_node(request_id=lost, nodes=NODES)

    def test_beat_frees_the_seats_of_the_last_process(self) -> None:
        seated()
        now = timezone.now()
        assert seats.free_forgotten(now=now) == 0
        assert seats.free_forgotten(now=now + timedelta(seconds=4 * seats.LEASE_S)) == 1

    def test_a_process_that_was_taken_for_dead_gets_its_seats_back(self) -> None:
        request_id = seated(process=TWO)
        seats.free_lost(silent_since=timezone.now() + timedelta(seconds=1))
        held = HeldSeat(request_id, 1, MODEL, "a", "", 0, 10, 5, timezone.now())
        assert [exchange.restore(process=TWO, held=[held]) for _ in range(2)] == [1, 0]
        assert at_nodes() == {"a": 1}

    def test_a_seat_that_its_process_does_not_know_is_freed(self) -> None:
        known, unknown, of_another = seated(), seated(), seated(process=TWO)
        now = timezone.now()
        freed = partial(exchange.free_unknown, process=ONE, held=[known])
        assert freed(queued_before=now - timedelta(seconds=30)) == 0
        assert freed(queued_before=now + timedelta(seconds=1)) == 1
        assert set(Seat.objects.values_list("pk", flat=True)) == {known, of_another}
        assert unknown not in {known, of_another}


@pytest.mark.django_db
class TestExchange:
    def test_the_view_shows_the_seats_of_all_processes(self) -> None:
        seated(process=ONE, prompt_tokens=100), seated(process=TWO, prompt_tokens=50, account=2)
        first = seated(process=TWO, account=3, nodes=(Candidate("b", 4, "", 30),))
        waiting = seated(account=4, nodes=())
        sending = Outbox()
        sending.first_tokens[first] = timezone.now()
        exchange.exchange(process=ONE, outbox=sending, blocks_since=timezone.now())
        view = exchange.exchange(process=uuid4(), outbox=Outbox(), blocks_since=timezone.now())
        assert view.seats["a"] == exchange.SeatSums(2, 150, 10)
        assert view.seats["b"] == exchange.SeatSums(1, 0, 5)
        assert view.waiting == {MODEL: 1}
        assert view.next_ones == {MODEL: (waiting,)}
        assert exchange.exchange(process=TWO, outbox=Outbox(), blocks_since=timezone.now()).seats == {
            "a": exchange.SeatSums(1, 100, 5)
        }
        load = load_of(MODEL, timezone.now())
        assert (load.running, load.waiting) == (1, 3)

    def test_arrivals_of_all_processes_add_up_in_whole_steps(self) -> None:
        now = step_of(timezone.now()) + timedelta(seconds=3)
        for process in (ONE, TWO):
            sending = Outbox()
            for seconds in (0, 3, 12, 13, 25):
                sending.arrived(MODEL, now - timedelta(seconds=seconds))
            exchange.exchange(process=process, outbox=sending, blocks_since=now)
        load = load_of(MODEL, now, steps=4)
        assert load.step_s == 10.0
        assert load.arrivals == (0, 2, 0, 4)
        assert Arrivals.objects.count() == 3

    def test_the_latest_days_broken_promises_of_all_processes_add_up(self) -> None:
        now = timezone.now()
        assert load_of(MODEL, now).late_share is None
        for process in (ONE, TWO):
            sending = Outbox()
            for hours, what in ((1, LATE), (2, SLOW), (3, KEPT), (4, BOTH), (5, SLOW), (25, LATE)):
                sending.kept_or_broke(MODEL, now - timedelta(hours=hours), what)
            sending.kept_or_broke("other", now, LATE)
            exchange.exchange(process=process, outbox=sending, blocks_since=now)
        load = load_of(MODEL, now)
        assert load.late_share == 6 / 10 and sum(load.arrivals) == 0  # of the slow ones, who are more

    def test_requests_that_wait_for_a_model_without_nodes_are_load(self) -> None:
        seated(nodes=())
        assert load_of(MODEL, timezone.now()).waiting == 1

    def test_histories_of_two_processes_add_up(self) -> None:
        for process in (ONE, TWO):
            sending = Outbox()
            for tokens in (3, 7, 100):
                sending.answered("abc", "completions", tokens)
            exchange.exchange(process=process, outbox=sending, blocks_since=timezone.now())
        found = exchange.history_of(payer="abc", endpoint="completions")
        assert (found.requests, found.tokens, sum(found.buckets)) == (6, 220, 6)
        assert expected_output(found, 1000)[1] == 128
        assert exchange.history_of(payer="other", endpoint="completions").requests == 0

    def test_a_long_history_fades(self) -> None:
        sending = Outbox()
        for _ in range(1001):
            sending.answered("abc", "completions", 4)
        for _ in range(2):
            exchange.exchange(process=ONE, outbox=sending, blocks_since=timezone.now())
        row = OutputHistory.objects.get()
        assert (row.requests, sum(row.buckets)) == (1501, 1501)

    def test_digests_reach_the_other_process_and_are_forgotten(self) -> None:
        sending = Outbox()
        sending.computed("a", (5, -7))
        before = timezone.now()
        exchange.exchange(process=ONE, outbox=sending, blocks_since=before)
        view = exchange.exchange(process=TWO, outbox=Outbox(), blocks_since=before)
        assert set(view.blocks) == {("a", 5), ("a", -7)}
        later = timezone.now() + exchange.BLOCK_LIFE
        assert exchange.exchange(process=TWO, outbox=Outbox(), blocks_since=later).blocks == ()
        assert exchange.forget_old(now=later + timedelta(seconds=1)) == 2
        assert not CachedBlock.objects.exists()

    def test_ready_and_draining_nodes_of_the_pool_are_in_the_view(self) -> None:
        host = make_host(make_class("spot", price=7, is_preemptible=True), devices=4)
        ServedModel.objects.create(name=MODEL, slots=9)
        common = {"model": MODEL, "reason": "test", "price_microcredits_per_device_hour": 7}
        ready = host.nodes.create(device=0, state="ready", url="http://h:1/", **common)
        host.nodes.create(device=1, state="starting", **common)
        host.nodes.create(device=2, state="draining", url="http://h:2", **common)
        view = exchange.exchange(process=ONE, outbox=Outbox(), blocks_since=timezone.now())
        assert [(node.url, str(node.state)) for node in view.nodes] == [
            ("http://h:1", "ready"),
            ("http://h:2", "draining"),
        ]
        first = view.nodes[0]
        assert (first.key, first.slots, first.price, first.is_preemptible) == (str(ready.pk), 9, 7, True)
        assert view.served == {MODEL: Promise(2000, 100)}


@pytest.mark.django_db
class TestRates:
    def tell(self, node: str, *, n: int = 4, kind: str = "h100", **changes: Any) -> None:
        sending = Outbox()
        values: dict[str, Any] = {
            "busy_ms": 2000,
            "prefill_tokens": 500,
            "prefill_ms": 500,
            "decode_tokens": 30,
            "decode_ms": 1500,
        }
        for _ in range(n):
            sending.served(Served(node, MODEL, kind, timezone.now(), **{**values, **changes}))
        exchange.exchange(process=ONE, outbox=sending, blocks_since=timezone.now())

    def test_rates_are_what_the_gateway_measured(self) -> None:
        ServedModel.objects.create(name=MODEL, slots=4)
        self.tell("a")
        self.tell("a")
        assert measured(MODEL, "h100") == Rates(1000.0, 20.0, 2.0, alone_tokens_per_s=20.0)
        assert measured(MODEL, "other") == Rates()
        assert measured("other", "h100") == Rates()

    def test_a_node_that_answers_at_once_with_garbage_does_not_raise_its_class(self) -> None:
        for honest in ("a", "b"):
            self.tell(honest)
        self.tell("liar", n=500, busy_ms=1, prefill_ms=0, decode_ms=0, decode_tokens=10**6)
        assert measured(MODEL, "h100").prefill_tokens_per_s == 1000.0
        assert measured(MODEL, "h100").requests_per_s == 2.0

    def test_failures_count_as_such_and_not_as_speed(self) -> None:
        self.tell("a", has_failed=True, decode_ms=None, prefill_ms=None)
        assert measured(MODEL, "h100") == Rates()

    def test_a_class_that_is_idle_keeps_its_last_rates_for_a_week(self) -> None:
        self.tell("a")
        assert measured(MODEL, "h100", now=timezone.now() + timedelta(days=3)).decode_tokens_per_s == 20.0
        assert measured(MODEL, "h100", now=timezone.now() + timedelta(days=8)) == Rates()

    def test_full_windows_say_how_many_requests_a_node_ends(self) -> None:
        ServedModel.objects.create(name=MODEL, slots=1)
        self.tell("a", n=30, busy_ms=1000)  # full: 30 s of work in one window
        early = Outbox()
        at = window_of(timezone.now()) - timedelta(minutes=2)
        early.served(Served("a", MODEL, "h100", at, busy_ms=100))
        exchange.exchange(process=ONE, outbox=early, blocks_since=at)
        assert measured(MODEL, "h100").requests_per_s == 1.0


def test_what_could_not_be_written_is_kept() -> None:
    now = timezone.now()
    old, new = Outbox(), Outbox()
    for outbox in (old, new):
        outbox.arrived(MODEL, now)
        outbox.answered("abc", "completions", 3)
        outbox.kept_or_broke(MODEL, now, BOTH)
        outbox.served(Served("a", MODEL, "", now, busy_ms=5))
    new.take_back(old)
    assert new.arrivals[MODEL, step_of(now)] == 2
    assert [counts[MODEL, step_of(now)] for counts in (new.ended, new.late, new.slow)] == [2, 2, 2]
    assert new.lengths["abc", "completions"] == [3, 3]
    assert new.windows["a", MODEL, "", window_of(now)].requests == 2


@pytest.mark.django_db
def test_an_exchange_costs_a_bounded_number_of_statements(
    django_assert_max_num_queries: Any,
) -> None:
    sending = Outbox()
    for i in range(200):
        sending.arrived(MODEL, timezone.now())
        sending.answered("abc", "completions", i)
        sending.computed("a", (i, i + 1000))
        sending.served(Served("a", MODEL, "", timezone.now(), busy_ms=5))
    assert connection.vendor == "postgresql"
    with django_assert_max_num_queries(14):
        exchange.exchange(process=ONE, outbox=sending, blocks_since=timezone.now())
