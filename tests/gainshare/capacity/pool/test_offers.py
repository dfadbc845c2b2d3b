"""Which devices are offered to judging, and when an offer ends: only idle ones, and only while scaling wants none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.capacity.hosts.nodes import order
from gainshare.capacity.models import DeviceLoan, Host, LoanState, NodeState, ScalingState, ServedModel
from gainshare.capacity.pool import loans
from gainshare.capacity.pool.offers import offer_idle
from gainshare.capacity.scaling.actuators.interface import Plan
from gainshare.capacity.scaling.actuators.local import LocalActuator
from tests.bounty.services.runners.pool_world import add_host, add_node, later, states
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def maintainer() -> User:
    return make_user("maintainer")


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Borrowers whose runs were ended: there are no runners in these tests."""
    ended: list[UUID] = []
    monkeypatch.setattr(loans, "end_runs", lambda: lambda borrower, reason: ended.append(borrower))
    return ended


def served(host: Host, wanted: int, name: str = "tiny") -> ServedModel:
    """A served model of the host's class, for which scaling wants so many nodes."""
    model = ServedModel.objects.create(name=name, is_automatic=True)
    model.classes.add(host.device_class)
    ScalingState.objects.create(served=model, wanted={host.device_class.name: wanted})
    return model


def want(model: ServedModel, host: Host, nodes: int) -> None:
    ScalingState.objects.filter(served=model).update(wanted={host.device_class.name: nodes})


def test_every_idle_device_is_offered_once(maintainer: User) -> None:
    host = add_host(maintainer, devices=3)
    add_node(host, 1)
    assert offer_idle(timezone.now()) == 2 and offer_idle(timezone.now()) == 0
    assert (states(host, 0), states(host, 1), states(host, 2)) == (["offered"], [], ["offered"])


@pytest.mark.parametrize(
    "change",
    [
        {"last_seen_at": None},
        {"last_seen_at": timezone.now() - timedelta(hours=1)},
        {"leaves_at": timezone.now() + timedelta(minutes=2)},
        {"revoked_at": timezone.now()},
        {"n_devices": 1},
        {"n_devices": 0},
    ],
)
def test_such_a_host_lends_nothing_and_its_offers_end(maintainer: User, change: dict[str, Any]) -> None:
    host = add_host(maintainer)
    assert offer_idle(timezone.now()) == 2
    Host.objects.filter(pk=host.pk).update(**change)
    loans.keep_loans(timezone.now())
    assert states(host, 0) == states(host, 1) == ["returned"]
    assert offer_idle(timezone.now()) == 0
    assert all(loan.end_reason for loan in DeviceLoan.objects.all())


def test_nothing_is_offered_while_a_node_is_wanted(maintainer: User) -> None:
    host = add_host(maintainer)
    other = add_host(maintainer, class_name="h100")
    model = served(host, 1)
    assert offer_idle(timezone.now()) == 2 and states(other, 0) == ["offered"] and states(host, 0) == []
    add_node(host, 0, model="tiny", state=NodeState.STARTING)
    assert offer_idle(timezone.now()) == 1 and states(host, 1) == ["offered"]
    want(model, host, 2)
    loans.keep_loans(timezone.now())
    assert states(host, 1) == ["returned"]


def test_nothing_is_offered_before_scaling_has_decided(maintainer: User) -> None:
    host = add_host(maintainer)
    ServedModel.objects.create(name="new").classes.add(host.device_class)
    assert offer_idle(timezone.now()) == 0


def test_a_device_that_serving_just_used_is_not_offered(maintainer: User) -> None:
    host = add_host(maintainer)
    add_node(host, 0, state=NodeState.ENDED, ended_at=timezone.now())
    assert offer_idle(timezone.now()) == 1 and states(host, 0) == []
    Host.objects.update(last_seen_at=later(settings.LOAN_QUIET_S + 1))
    assert offer_idle(later(settings.LOAN_QUIET_S + 1)) == 1


def test_a_device_that_an_ended_node_may_still_use_is_not_lent(maintainer: User) -> None:
    """Its host was silent, so the node was ended here; the process may still run there."""
    host = add_host(maintainer)
    node = add_node(host, 0, state=NodeState.ENDED, ended_at=later(-3600), holds_device=True)
    assert offer_idle(timezone.now()) == 1 and states(host, 0) == []
    DeviceLoan.objects.create(host=host, device=0, reason="a mistake")
    assert not loans.take(host_id=host.pk, device=0, borrower=uuid4())
    node.holds_device = False
    node.save()
    assert loans.take(host_id=host.pk, device=0, borrower=uuid4())


def lend(host: Host, device: int) -> UUID:
    """Offer and take the device."""
    borrower = uuid4()
    offer_idle(timezone.now())
    assert loans.take(host_id=host.pk, device=device, borrower=borrower)
    return borrower


def test_an_order_leaves_lent_devices_alone_and_ends_offers(maintainer: User) -> None:
    host = add_host(maintainer)
    lend(host, 0)
    node = order(model="tiny", device_class=host.device_class, reason="a test")
    assert node is not None and node.device == 1
    assert order(model="tiny", device_class=host.device_class, reason="a test") is None
    loans.keep_loans(timezone.now())
    assert (states(host, 0), states(host, 1)) == (["taken"], ["returned"])


def test_scaling_that_finds_no_device_recalls_as_many_as_it_lacks(
    maintainer: User, no_runs: list[UUID]
) -> None:
    host = add_host(maintainer, devices=3)
    borrowers = [lend(host, device) for device in range(3)]
    model = served(host, 2)
    for _ in range(3):  # pass after pass: no more than two come back
        outcome = LocalActuator().carry_out(
            model, Plan({host.device_class.name: 2}, "14 requests/s forecast")
        )
        assert outcome.actions == [] and "2 lent to judging will be back" in outcome.problem
    assert DeviceLoan.objects.filter(state=LoanState.RECALLED).count() == 2
    assert {loan.recall_reason for loan in DeviceLoan.objects.filter(state=LoanState.RECALLED)} == {
        "14 requests/s forecast"
    }
    assert loans.end_overdue(later(settings.LOAN_RECALL_S + 1)) == 2 and len(no_runs) == 2
    loans.keep_loans(timezone.now())
    assert DeviceLoan.objects.exclude(state=LoanState.RETURNED).count() == 1
    outcome = LocalActuator().carry_out(model, Plan({host.device_class.name: 2}, "14 requests/s forecast"))
    assert [action.verb for action in outcome.actions] == ["order", "order"] and outcome.problem == ""
    assert loans.renew(borrower=borrowers[0]) is not None  # the last taken came back first


@pytest.mark.parametrize(
    "change",
    [
        lambda host: Host.objects.filter(pk=host.pk).update(leaves_at=later(120)),
        lambda host: Host.objects.filter(pk=host.pk).update(revoked_at=timezone.now()),
        lambda host: Host.objects.filter(pk=host.pk).update(n_devices=1),
    ],
)
def test_a_lent_device_of_such_a_host_is_recalled(maintainer: User, change: Callable[[Host], object]) -> None:
    host = add_host(maintainer)
    lend(host, 0)
    change(host)
    loans.keep_loans(timezone.now())
    assert states(host, 0) == ["recalled"]


def test_a_silent_host_s_loan_goes_on(maintainer: User) -> None:
    """Its runner renews it; whether the agent speaks is another matter."""
    host = add_host(maintainer)
    borrower = lend(host, 0)
    Host.objects.update(last_seen_at=later(-3600))
    loans.keep_loans(timezone.now())
    assert states(host, 0) == ["taken"] and loans.renew(borrower=borrower) is not None
