"""Devices on loan: a runner measures on a serving device only while it has it on loan, and gives it back."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.errors import BountyError, LeaseLost, NotLeasable
from bounty.models import Run, RunnerFailure, RunState
from bounty.services.runners.calls import Heartbeat, heartbeat
from bounty.services.runners.devices import set_device
from bounty.services.runners.lending import give_back
from bounty.services.runs.maintenance import cancel_run
from bounty.services.runs.pooling import continued_records, post_pair
from gainshare.capacity.models import DeviceLoan, Host, Node, NodeState
from gainshare.capacity.pool import loans
from gainshare.capacity.pool.offers import offer_idle
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runners.pool_world import (
    OFFERED,
    RECALLED,
    RETURNED,
    TAKEN,
    add_host,
    add_node,
    later,
    lending_host,
    loan_of,
    states,
    tie,
)
from tests.bounty.services.runs.test_pooling import records

DIFF = diff_of_line(3, "step_3 = 33")
RECALL = "a node is ordered"


def beat(run: Run, pairs: int = 1) -> Heartbeat:
    assert run.runner is not None and run.lease is not None
    return heartbeat(
        runner=run.runner, run_id=run.pk, lease=run.lease, stage="gating", pairs_done=pairs, pairs_max=48
    )


def recall(host: Host, device: int = 0) -> bool:
    return loans.recall(host_id=host.pk, device=device, reason=RECALL)


def posted(world: World, run: Run, number: int) -> list[dict[str, Any]]:
    """Post so many pairs of the run's present attempt."""
    assert run.lease is not None and run.runner is not None
    made = records(world, run, 0.0, number)
    for record in made:
        post_pair(runner=run.runner, run_id=run.pk, lease=run.lease, sealed=record)
    return made


# -- taking ------------------------------------------------------------------------------------------


def test_a_runner_takes_work_only_while_its_device_is_on_offer(world: World) -> None:
    host = add_host(world.mira)
    tie(world, host)
    world.submit(world.ann, DIFF)
    with pytest.raises(NotLeasable, match="not on offer"):
        world.lease()
    run = Run.objects.get()
    assert (run.state, run.attempt) == (RunState.QUEUED, 0)
    offer_idle(timezone.now())
    assert world.lease().state == RunState.LEASED
    assert states(host) == [TAKEN] and states(host, 1) == [OFFERED]
    assert loans.is_lent(host.pk, 0) and not loans.is_lent(host.pk, 1)
    assert loan_of(host).borrower == world.runner.pk


def test_a_runner_that_waits_for_an_offer_is_shown_to_wait_for_its_device(world: World) -> None:
    tie(world, add_host(world.mira))
    world.submit(world.ann, DIFF)
    with pytest.raises(NotLeasable):
        world.lease()
    world.runner.refresh_from_db()
    assert world.runner.waits_for_device_since is not None


@pytest.mark.parametrize(("devices", "is_exclusive", "needs"), [(1, False, 0), (1, True, 1), (2, False, 1)])
def test_one_device_is_shared_and_several_are_lent(
    world: World, devices: int, is_exclusive: bool, needs: int
) -> None:
    host = lending_host(world, devices=devices, is_exclusive=is_exclusive)
    world.submit(world.ann, DIFF)
    run = world.lease()
    assert DeviceLoan.objects.filter(host=host, state=TAKEN).count() == needs
    assert beat(run).give_back_s is None


def test_no_work_takes_no_loan(world: World) -> None:
    host = lending_host(world)
    with pytest.raises(NotLeasable, match="No run waits"):
        world.lease()
    assert states(host) == [OFFERED]


def test_another_host_s_device_is_no_help(world: World) -> None:
    """The attack: a runner whose device is busy takes the offered one of another host, or of its own."""
    own, other = add_host(world.mira), add_host(world.mira)
    add_node(own, 0)
    tie(world, own)
    offer_idle(timezone.now())
    world.submit(world.ann, DIFF)
    with pytest.raises(NotLeasable):
        world.lease()
    assert states(own, 1) == [OFFERED] and states(other, 0) == [OFFERED]
    assert Run.objects.get().state == RunState.QUEUED


def test_a_loan_is_renewed_and_returned_by_its_borrower_only(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.lease()
    stranger, _ = world.add_runner(generate_key())
    tie(world, host, 1, stranger)
    stranger.refresh_from_db()
    before = loan_of(host).expires_at
    assert not give_back(runner=stranger)
    assert loans.renew(borrower=stranger.pk) is None
    assert loan_of(host).expires_at == before and states(host) == [TAKEN]


def test_two_runners_never_have_one_device(world: World) -> None:
    host = lending_host(world)
    second, _ = world.add_runner(generate_key())
    with pytest.raises(BountyError, match="Another runner"):
        tie(world, host, 0, second)
    with pytest.raises(BountyError, match="no host with this name"):
        set_device(actor=world.mira, name=second.name, host="nowhere", device=0, reason="typo")
    with pytest.raises(BountyError, match="maintainer"):
        set_device(actor=world.ann, name=second.name, host=host.name, device=1, reason="mine")


def test_a_runner_that_measures_keeps_its_device(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.lease()
    with pytest.raises(BountyError, match="has a run"):
        tie(world, host, 1)


# -- a node and a run --------------------------------------------------------------------------------


def test_a_node_never_starts_on_a_lent_device(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.lease()
    with pytest.raises(IntegrityError, match="lent to judging"), transaction.atomic():
        add_node(host, 0, state=NodeState.STARTING)
    recall(host)
    with pytest.raises(IntegrityError, match="lent to judging"), transaction.atomic():
        add_node(host, 0, state=NodeState.STARTING)
    add_node(host, 1)
    give_back(runner=world.runner)
    add_node(host, 0)


def test_a_node_that_was_ordered_first_keeps_its_device(world: World) -> None:
    host = lending_host(world)
    add_node(host, 0, state=NodeState.STARTING)  # the offer is still there: beat has not looked yet
    world.submit(world.ann, DIFF)
    with pytest.raises(NotLeasable):
        world.lease()
    assert Run.objects.get().state == RunState.QUEUED
    loans.keep_loans(timezone.now())
    assert states(host) == [RETURNED] and loan_of(host).end_reason == "a node is on it"


def test_an_ended_node_may_be_written_to_while_its_device_is_lent(world: World) -> None:
    host = add_host(world.mira)
    node = add_node(host, 0, state=NodeState.ENDED, ended_at=later(-3600))
    tie(world, host)
    offer_idle(timezone.now())
    world.submit(world.ann, DIFF)
    world.lease()
    node.end_reason = "told late"
    node.save()
    assert Node.objects.get().end_reason == "told late"


# -- recalls -----------------------------------------------------------------------------------------


def test_a_recalled_runner_gives_its_device_back_between_two_pairs_and_no_pair_is_lost(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    kept = posted(world, run, 6)
    assert beat(run).give_back_s is None
    assert recall(host) and not recall(host)
    told = beat(run)
    assert not told.cancel and told.give_back_s is not None
    assert 0 < told.give_back_s <= settings.LOAN_RECALL_S <= 30
    assert give_back(runner=world.runner) and not give_back(runner=world.runner)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.forgiven) == (RunState.QUEUED, 1, 1)
    assert not RunnerFailure.objects.exists()
    assert states(host) == [RETURNED] and RECALL in loan_of(host).end_reason
    other, _ = world.add_runner(generate_key())
    again = world.lease(other)
    assert again.pk == run.pk and continued_records(again) == kept


def test_a_recall_in_the_middle_of_a_confirmation_continues_it(world: World) -> None:
    host = lending_host(world)
    submission = world.submit(world.ann, DIFF)
    world.judge(0.3)
    world.advance(submission)
    give_back(runner=world.runner)
    run = world.lease()
    assert run.kind == "confirmation"
    world.commit(run)
    kept = posted(world, run, 10)
    recall(host)
    give_back(runner=world.runner)
    offer_idle(later(settings.LOAN_QUIET_S + 1))
    Host.objects.update(last_seen_at=later(settings.LOAN_QUIET_S + 1))
    offer_idle(later(settings.LOAN_QUIET_S + 2))
    again = world.lease()
    assert (again.pk, again.kind) == (run.pk, "confirmation")
    assert continued_records(again) == kept
    assert Run.objects.filter(kind="confirmation").count() == 1


def test_what_a_runner_that_never_gives_back_measures_counts_no_more(world: World) -> None:
    """The attack: a runner that goes on after the recall, and posts pairs and evidence."""
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    kept = posted(world, run, 2)
    recall(host)
    assert beat(run).give_back_s is not None
    assert loans.end_overdue(later(settings.LOAN_RECALL_S - 1)) == 0
    assert states(host) == [RECALLED]
    assert loans.end_overdue(later(settings.LOAN_RECALL_S + 1)) == 1
    assert "not given back" in loan_of(host).end_reason and not loans.is_lent(host.pk, 0)
    add_node(host, 0)
    stale = Run.objects.get()
    assert (stale.state, stale.forgiven) == (RunState.QUEUED, 1)
    with pytest.raises(LeaseLost):
        posted(world, run, 3)
    with pytest.raises(LeaseLost):
        world.finish(run, 0.3)
    with pytest.raises(LeaseLost):
        beat(run)
    assert RunnerFailure.objects.get().runner == world.runner
    other, _ = world.add_runner(generate_key())
    assert continued_records(world.lease(other)) == kept


def test_heartbeats_do_not_put_the_limit_of_a_recall_off(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    recall(host)
    loan = loan_of(host)
    DeviceLoan.objects.filter(pk=loan.pk).update(recalled_at=later(-settings.LOAN_RECALL_S + 3))
    told = beat(run)
    assert told.give_back_s is not None and told.give_back_s <= 3
    assert loans.end_overdue(later(4)) == 1


def test_a_loan_that_its_runner_does_not_renew_ends_with_its_run(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    assert settings.LOAN_LEASE_S > settings.RUN_LEASE_S
    assert loans.end_overdue(later(settings.LOAN_LEASE_S - 5)) == 0
    assert loans.end_overdue(later(settings.LOAN_LEASE_S + 1)) == 1
    run.refresh_from_db()
    assert run.state == RunState.QUEUED and states(host) == [RETURNED]


def test_a_loan_renewed_in_this_moment_is_not_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat comes between beat's look and its UPDATE: neither the run nor the loan ends."""
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    DeviceLoan.objects.update(expires_at=later(-1))
    ends = loans.end_runs()

    def renewed(runner_id: Any, reason: str) -> None:
        ends(runner_id, reason)
        loans.renew(borrower=runner_id)

    monkeypatch.setattr(loans, "end_runs", lambda: renewed)
    assert loans.end_overdue(timezone.now()) == 0
    run.refresh_from_db()
    assert run.state == RunState.LEASED and states(host) == [TAKEN]


def test_a_runner_that_gives_back_unasked_has_lost_an_attempt(world: World) -> None:
    """Else a runner could give every run back that goes badly, for as long as it likes."""
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    assert give_back(runner=world.runner)
    run.refresh_from_db()
    assert (run.state, run.forgiven) == (RunState.QUEUED, 0)
    assert RunnerFailure.objects.count() == 1 and states(host) == [RETURNED, OFFERED]


def test_a_device_is_on_offer_again_after_each_run(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    world.judge(-0.3)
    assert states(host) == [TAKEN]
    give_back(runner=world.runner)
    assert states(host) == [RETURNED, OFFERED]
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    world.lease()
    assert states(host) == [RETURNED, TAKEN]


def test_a_runner_that_was_restarted_takes_a_new_loan(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    first = world.lease()
    again = world.lease()
    assert again.pk == first.pk and again.attempt == 2
    assert states(host) == [RETURNED, TAKEN]


def test_a_cancelled_run_keeps_the_device_until_its_runner_has_stopped(world: World) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = world.lease()
    cancel_run(actor=world.mira, run_id=run.pk, reason="the disk is full")
    assert beat(run).cancel and states(host) == [TAKEN]
    assert give_back(runner=world.runner) and states(host) == [RETURNED, OFFERED]


def test_a_host_that_becomes_exclusive_stops_a_run_without_a_loan(world: World) -> None:
    host = lending_host(world, devices=1)
    world.submit(world.ann, DIFF)
    run = world.lease()
    Host.objects.update(is_exclusive=True)
    assert beat(run).give_back_s == 0
    give_back(runner=world.runner)
    run.refresh_from_db()
    assert (run.state, run.forgiven, states(host)) == (RunState.QUEUED, 1, [])


def test_giving_back_nothing_ends_nothing(world: World) -> None:
    """On a shared device, and on none of the pool's, a runner has nothing to give back: its run goes on."""
    world.submit(world.ann, DIFF)
    run = world.lease()
    assert not give_back(runner=world.runner)
    run.refresh_from_db()
    assert run.state == RunState.LEASED
