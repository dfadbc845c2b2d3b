"""Seats: a request's place in the pool, taken, moved and freed by single statements that all web processes share.

The limits hold across web processes, because PostgreSQL counts and writes under one lock for each account and model
(functions of migration 0003). A seat is taken in the transaction that holds the credits: a process that is killed in
between leaves neither. Seats of a dead process are freed when it was silent for `LEASE_S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction

from gainshare.capacity.models import Seat, WebProcess

LEASE_S = 5.0  # a web process that was silent for so long has lost its seats; it speaks about once a second
ACCOUNT_FULL, QUEUE_FULL, GONE = "?account", "?queue", "?gone"


class AccountFull(Exception):
    """The account has as many requests in flight as it may have."""


class QueueFull(Exception):
    """As many requests wait for a node of the model as may wait."""


class SeatGone(Exception):
    """The request's seat was freed: its web process was taken for dead."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may answer a request: its slots, its class, and the prompt tokens expected in its cache."""

    node: str
    slots: int
    device_class: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SeatRequest:
    """What a seat is asked for. `nodes` are in the order of preference; without any the request waits."""

    process: UUID
    account: int
    model: str
    priority: int
    prompt_tokens: int
    expected_tokens: int
    account_limit: int
    queue_limit: int
    nodes: tuple[Candidate, ...] = ()


def take(*, request_id: UUID, asked: SeatRequest) -> str:
    """Seat a request; return its node, or "" if it waits for one. Call it last in the transaction of its hold.

    A repeated call returns the seat that it has. Raises `AccountFull` or `QueueFull`; then no seat was written.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT capacity_take_seat(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s::int[], %s::text[], %s::int[])",
            [
                request_id, asked.process, asked.account, asked.model, asked.priority, asked.prompt_tokens,
                asked.expected_tokens, asked.account_limit, asked.queue_limit, *_columns(asked.nodes),
            ],
        )  # fmt: skip
        answer = str(cursor.fetchone()[0])
    if answer == ACCOUNT_FULL:
        raise AccountFull
    if answer == QUEUE_FULL:
        raise QueueFull
    return answer


def give_node(*, request_id: UUID, nodes: Sequence[Candidate]) -> str:
    """Give a waiting request the first of `nodes` with a free slot, if it is its turn; "" if not. Raises `SeatGone`."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")
        cursor.execute(
            "SELECT capacity_give_node(%s, %s::text[], %s::int[], %s::text[], %s::int[])",
            [request_id, *_columns(nodes)],
        )
        answer = str(cursor.fetchone()[0])
    if answer == GONE:
        raise SeatGone
    return answer


def leave_node(*, request_id: UUID, node: str) -> bool:
    """Give `node` back and wait for another one, with the old place in the queue. True if this call did it."""
    changed = Seat.objects.filter(pk=request_id, node=node, first_token_at=None).update(
        node="", device_class="", cached_tokens=0, sent_at=None
    )
    return changed == 1


def free(request_ids: Iterable[UUID]) -> int:
    """Free the seats of these requests; return how many there were."""
    return Seat.objects.filter(pk__in=list(request_ids)).delete()[0]


def free_lost(*, silent_since: datetime) -> int:
    """Free the seats of web processes that were last seen before `silent_since`; return their number."""
    with transaction.atomic():
        lost = list(
            WebProcess.objects.select_for_update(skip_locked=True)
            .filter(seen_at__lt=silent_since)
            .values_list("pk", flat=True)
        )
        n_freed = Seat.objects.filter(process__in=lost).delete()[0]
        WebProcess.objects.filter(pk__in=lost).delete()
    return n_freed


def free_forgotten(*, now: datetime) -> int:
    """Free the seats of processes that do not speak any more, also where no other web process is left. For beat."""
    return free_lost(silent_since=now - timedelta(seconds=3 * LEASE_S))


def _columns(nodes: Sequence[Candidate]) -> list[list[str] | list[int]]:
    return [
        [candidate.node for candidate in nodes],
        [candidate.slots for candidate in nodes],
        [candidate.device_class for candidate in nodes],
        [candidate.cached_tokens for candidate in nodes],
    ]
