"""A served model on the pool's small world, with short words for what happens to its nodes."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone

from gainshare.capacity.models import Arrivals, DeviceClass, Node, NodeState, Seat, ServedModel
from gainshare.capacity.routing.load import step_of
from gainshare.capacity.scaling.loop import scale
from tests.gainshare.capacity.pool_world import MODEL, make_class, make_host, make_user

__all__ = ["MODEL", "make_class", "make_host", "make_user"]


def serve(*classes: DeviceClass, **more: Any) -> ServedModel:
    """A served model with a fixed count of one, unless said otherwise."""
    served = ServedModel.objects.create(name=MODEL, changed_by=make_user(), **more)
    served.classes.set(classes)
    return served


def live(state: str | None = None) -> list[Node]:
    nodes = Node.objects.exclude(state=NodeState.ENDED).order_by("created_at")
    return list(nodes if state is None else nodes.filter(state=state))


def make_ready(*nodes: Node) -> None:
    """As its agent does when the node answers."""
    now = timezone.now()
    Node.objects.filter(pk__in=[node.pk for node in nodes]).update(
        state=NodeState.READY, told_at=now, ready_at=now
    )


def end(node: Node, *, reason: str = "it exited with 1", told: bool = True) -> None:
    """As its agent does when the process is gone."""
    now = timezone.now()
    Node.objects.filter(pk=node.pk).update(
        state=NodeState.ENDED, told_at=now if told else None, ended_at=now, end_reason=reason
    )


def take_seats(node: Node | None, count: int) -> None:
    """Requests in flight at a node, or in front of all of them."""
    now = timezone.now()
    for _ in range(count):
        Seat.objects.create(
            request_id=uuid4(),
            process=uuid4(),
            account=1,
            model=MODEL,
            node="" if node is None else str(node.pk),
            prompt_tokens=10,
            expected_tokens=10,
            queued_at=now,
            sent_at=None if node is None else now,
            first_token_at=None if node is None else now,
        )


def arrive(count: int, *, now: datetime, steps: int = 6) -> None:
    """So many requests in each of the latest whole steps."""
    for back in range(1, steps + 1):
        Arrivals.objects.create(
            model=MODEL, step_at=step_of(now - timedelta(seconds=10 * back)), requests=count
        )


def passes(served: ServedModel, count: int = 1) -> None:
    for _ in range(count):
        scale(served.pk, timezone.now())
