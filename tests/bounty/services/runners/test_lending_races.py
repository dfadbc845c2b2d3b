"""Loans with callers at the same moment (real threads) and callers that are killed: never two on one device."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.models import OPEN_RUN_STATES, Run, RunState
from bounty.services.runners.lending import give_back
from gainshare.capacity.models import LENT, LIVE, DeviceLoan, Host, Node, NodeState
from gainshare.capacity.pool import loans
from gainshare.capacity.pool.offers import offer, offer_idle
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runners.pool_world import (
    OFFERED,
    RECALLED,
    RETURNED,
    TAKEN,
    add_node,
    later,
    lending_host,
    loan_of,
    states,
)
from tests.bounty.services.test_killed_control import in_a_worker
from tests.bounty.services.test_races import at_once, refusals

pytestmark = pytest.mark.django_db(transaction=True)

DIFF = diff_of_line(3, "step_3 = 33")
SETUP = (
    "import sys, django; django.setup(); from uuid import UUID, uuid4; from django.utils import timezone; "
)
LEASE = SETUP + (
    "from bounty.models import Runner; from bounty.services.runners.calls import lease_run; "
    "lease_run(runner=Runner.objects.get(pk=sys.argv[1]), run_id=uuid4())"
)
GIVE_BACK = SETUP + (
    "from bounty.models import Runner; from bounty.services.runners.lending import give_back; "
    "give_back(runner=Runner.objects.get(pk=sys.argv[1]))"
)
RECALL = SETUP + (
    "from gainshare.capacity.pool.loans import recall; "
    "recall(host_id=UUID(sys.argv[1]), device=0, reason='a node is ordered')"
)
KEEP = SETUP + "from gainshare.capacity.pool.loans import keep_loans; keep_loans(timezone.now())"


@pytest.fixture
def world() -> World:
    return World()


def has_node(host: Host) -> bool:
    return Node.objects.filter(host=host, device=0, state__in=LIVE).exists()


def has_run(host: Host) -> bool:
    lent = DeviceLoan.objects.filter(host=host, device=0, state__in=LENT).values("borrower")
    return Run.objects.filter(runner__in=lent, state__in=OPEN_RUN_STATES).exists()


# -- at the same moment ------------------------------------------------------------------------------


def test_of_many_askers_at_once_one_gets_the_device(world: World) -> None:
    host = lending_host(world)
    askers = [uuid4() for _ in range(6)]
    taken = at_once([lambda one=one: loans.take(host_id=host.pk, device=0, borrower=one) for one in askers])
    assert taken.count(True) == 1 and states(host) == [TAKEN]
    assert loan_of(host).borrower == askers[taken.index(True)]


def test_a_runner_that_asks_twice_at_once_gets_one_run_and_one_loan(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    at_once([lambda: world.lease(), lambda: world.lease()])
    assert Run.objects.filter(state__in=OPEN_RUN_STATES).count() <= 1
    lent = DeviceLoan.objects.filter(state__in=LENT).count()
    assert lent == Run.objects.filter(state__in=OPEN_RUN_STATES).count()
    assert states(host)[-1] in (TAKEN, OFFERED, RETURNED)


def test_of_a_node_and_a_run_at_once_one_gets_the_device(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)

    def order() -> bool:
        try:
            with transaction.atomic():
                add_node(host, 0, state=NodeState.STARTING)
        except IntegrityError:
            return False
        return True

    for _ in range(12):
        results = at_once([order, lambda: world.lease()])
        assert has_node(host) != has_run(host), results
        assert results[0] is has_node(host) and refusals(results) == int(has_node(host))
        Node.objects.update(state=NodeState.ENDED, ended_at=later(-3600))
        give_back(runner=world.runner)
        Run.objects.update(attempt=0, forgiven=0)
        loans.withdraw_offers(timezone.now())
        offer(Host.objects.select_related("device_class").get(pk=host.pk), 0, timezone.now())


def test_beat_and_its_runner_end_a_recalled_loan_once(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    loans.recall(host_id=host.pk, device=0, reason="a node is ordered")
    DeviceLoan.objects.filter(host=host, device=0).update(recalled_at=later(-settings.LOAN_RECALL_S - 1))
    now = timezone.now()
    at_once(
        [
            lambda: give_back(runner=world.runner),
            lambda: loans.end_overdue(now),
            lambda: loans.end_overdue(now),
        ]
    )
    run.refresh_from_db()
    assert (run.state, run.attempt, run.forgiven) == (RunState.QUEUED, 1, 1)
    assert states(host) == [RETURNED]


# -- kill -9 -----------------------------------------------------------------------------------------


def test_a_lease_that_is_killed_leaves_neither_a_run_nor_a_loan(world: World, tmp_path: Path) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    killed = in_a_worker(LEASE, str(world.runner.pk), fault="loans.taken", marks=tmp_path / "marks")
    assert killed == -signal.SIGKILL
    assert Run.objects.get().state == RunState.QUEUED and states(host) == [OFFERED]
    assert in_a_worker(LEASE, str(world.runner.pk), fault="loans.taken", marks=tmp_path / "marks") == 0
    assert Run.objects.get().state == RunState.LEASED and states(host) == [TAKEN]


def test_a_recall_that_is_killed_is_carried_out(world: World, tmp_path: Path) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.lease()
    killed = in_a_worker(RECALL, str(host.pk), fault="loans.recalled", marks=tmp_path / "marks")
    assert killed == -signal.SIGKILL and states(host) == [RECALLED]
    assert in_a_worker(RECALL, str(host.pk), fault="loans.recalled", marks=tmp_path / "marks") == 0
    assert loans.end_overdue(later(settings.LOAN_RECALL_S + 1)) == 1
    assert states(host) == [RETURNED] and not has_run(host)


def test_a_return_that_is_killed_is_repeated(world: World, tmp_path: Path) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    loans.recall(host_id=host.pk, device=0, reason="a node is ordered")
    fault, marks = "loans.run_given_back", tmp_path / "marks"
    assert in_a_worker(GIVE_BACK, str(world.runner.pk), fault=fault, marks=marks) == -signal.SIGKILL
    run.refresh_from_db()
    assert run.state == RunState.LEASED and states(host) == [RECALLED]  # both or neither
    assert in_a_worker(GIVE_BACK, str(world.runner.pk), fault=fault, marks=marks) == 0
    run.refresh_from_db()
    assert (run.state, run.forgiven) == (RunState.QUEUED, 1) and states(host) == [RETURNED]


@pytest.mark.parametrize(
    ("fault", "after_kill"), [("loans.run_ended", RECALLED), ("loans.returned", RETURNED)]
)
def test_a_beat_that_is_killed_while_it_takes_a_device_back_forgets_none(
    world: World, tmp_path: Path, fault: str, after_kill: str
) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    loans.recall(host_id=host.pk, device=0, reason="a node is ordered")
    DeviceLoan.objects.filter(host=host, device=0).update(recalled_at=later(-settings.LOAN_RECALL_S - 1))
    marks = tmp_path / "marks"
    assert in_a_worker(KEEP, fault=fault, marks=marks) == -signal.SIGKILL
    assert states(host) == [after_kill] and has_run(host) == (after_kill == RECALLED)
    assert in_a_worker(KEEP, fault=fault, marks=marks) == 0
    run.refresh_from_db()
    assert (run.state, run.forgiven) == (RunState.QUEUED, 1) and states(host) == [RETURNED]


def test_a_runner_that_is_killed_is_not_lent_to_for_ever(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.lease()
    assert loans.end_overdue(later(settings.LOAN_LEASE_S + 1)) == 1
    Host.objects.update(last_seen_at=timezone.now())
    offer_idle(timezone.now())
    second, _ = world.add_runner(generate_key())
    assert world.lease(second).attempt == 2 and states(host) == [RETURNED, OFFERED]
