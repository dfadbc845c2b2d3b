"""An event reaches the room that it is for: reviews, pushes, and what happens to an installation."""

from typing import Any
from uuid import uuid4

import pytest

from bounty.github.events import deliveries
from bounty.github.events.parsing import push_facts, review_facts
from bounty.models import Delivery

REPOSITORY = {"id": 77, "full_name": "octo/stack"}
SENDER = {"id": 5, "login": "someone", "type": "User"}
REVIEW = {
    "id": 9,
    "user": SENDER,
    "commit_id": "a" * 40,
    "state": "approved",
    "submitted_at": "2026-11-01T10:00:00Z",
}


def reviewed(action: str = "submitted", **more: Any) -> dict[str, Any]:
    return {
        "action": action,
        "review": {**REVIEW, **more},
        "pull_request": {"number": 3},
        "repository": REPOSITORY,
        "sender": SENDER,
    }


def test_a_review_is_read_and_a_dismissal_counts_whatever_its_state_says() -> None:
    facts = review_facts(reviewed())
    assert facts is not None
    assert (facts.repository_id, facts.number, facts.review_id, facts.state) == (77, 3, 9, "approved")
    dismissed = review_facts(reviewed("dismissed"))
    assert dismissed is not None and dismissed.state == "dismissed"
    assert review_facts(reviewed(submitted_at=None)) is None


def test_a_push_names_who_pushed() -> None:
    facts = push_facts(
        {"ref": "refs/heads/main", "after": "b" * 40, "repository": REPOSITORY, "sender": SENDER}
    )
    assert facts is not None and (facts.commit, facts.pusher_id) == ("b" * 40, 5)


@pytest.mark.parametrize("event", ["installation", "installation_repositories", "repository"])
def test_what_happens_to_an_installation_has_github_asked(
    db: None, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(deliveries, "ask_check", lambda: asked.append(event))
    delivery_id = uuid4()
    assert deliveries.receive(delivery_id=delivery_id, event=event, payload={"action": "suspend"})
    deliveries.process_delivery(delivery_id=delivery_id)
    assert asked == [event] and Delivery.objects.get(pk=delivery_id).done_at is not None
