"""The web process and the poll are killed (SIGKILL, for real) after what they took in was stored: it is taken in once."""

import json
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from bounty.github.events.deliveries import wake_waiting
from bounty.github.standin.control.standin import StandIn
from bounty.models import Command, Delivery, GitHubRepository, Head, PullRequest
from tests.bounty.bounty_world import World
from tests.bounty.github.pulls.hub_world import HubWorld
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

RECEIVE = (
    "import sys, json, django; django.setup(); from bounty.github.events.deliveries import receive; "
    "receive(**json.loads(sys.argv[1]))"
)
RECONCILE = (
    "import django; django.setup(); from bounty.github.events.reconciler import reconcile; reconcile()"
)
KILLED = -signal.SIGKILL


@pytest.fixture
def hub(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubWorld:
    for name, value in standin.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GAINSHARE_REPOSITORY_ROOT", str(tmp_path / "repositories"))
    return HubWorld(World(), standin)


def test_a_delivery_whose_web_process_was_killed_is_kept_once_and_found_again(
    db: None, tmp_path: Path
) -> None:
    given = json.dumps(
        {"delivery_id": str(uuid4()), "event": "installation", "payload": {"action": "suspend"}}
    )
    marks = tmp_path / "marks"
    assert in_a_worker(RECEIVE, given, fault="events.received", marks=marks) == KILLED
    assert in_a_worker(RECEIVE, given, fault="events.received", marks=marks) == 0  # GitHub delivers it again
    delivery = Delivery.objects.get()
    assert delivery.done_at is None
    Delivery.objects.update(received_at="2026-01-01T00:00:00Z")
    assert wake_waiting() == 1


def test_a_killed_poll_sees_each_pull_request_and_command_once(hub: HubWorld, tmp_path: Path) -> None:
    pull = hub.opens()
    hub.standin.pass_time(seconds=2)
    hub.standin.comment(pull, hub.cora, "/status")
    marks = tmp_path / "marks"
    assert in_a_worker(RECONCILE, "", fault="events.polled", marks=marks) == KILLED
    assert GitHubRepository.objects.get().polled_at is None
    assert in_a_worker(RECONCILE, "", fault="events.polled", marks=marks) == 0
    assert GitHubRepository.objects.get().polled_at is not None
    assert (PullRequest.objects.count(), Head.objects.count(), Command.objects.count()) == (1, 1, 1)
