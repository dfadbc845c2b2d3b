"""Exchange between a web process and PostgreSQL: it says that it lives, writes its outbox, and reads the shared view.

One short transaction, a few times a second while the process has requests, whatever their number. Its commit does not
wait for the disk: nothing here decides about money.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from gainshare.capacity.deployments.former import former_trees
from gainshare.capacity.deployments.serving import serving_trees
from gainshare.capacity.models import Node, NodeState, OutputHistory, ServedModel
from gainshare.capacity.routing.analysis import History
from gainshare.capacity.routing.outbox import Outbox, WindowKey, buckets_of
from gainshare.capacity.routing.promises import Promise
from gainshare.capacity.routing.rates import COUNTED, Counted

EPOCH = datetime.fromtimestamp(0, UTC)
BLOCK_LIFE = timedelta(minutes=10)  # a digest that was not used for so long is forgotten
ARRIVALS_KEPT = timedelta(days=35)
HISTORY_KEPT = timedelta(days=90)
BLOCK_OVERLAP = timedelta(seconds=2)  # digests are read again, because they become visible at their commit
MOST_BLOCKS = 50_000  # read at once
MOST_NEXT = 256  # waiting requests of one model that are told that it is their turn at once


@dataclass(frozen=True, slots=True)
class PoolNode:
    """A node of the pool that may have requests: starting ones get none yet, draining ones nothing new.

    A ready node of a tree that does not serve the model counts as draining: it is before its tree's switch, or after.
    `tree` is the hash of what it executes, empty if it is not known. A node with a former tree answers only requests
    that name it.
    """

    key: str
    id: UUID
    url: str
    model: str
    state: NodeState
    device_class: str
    price: int
    is_preemptible: bool
    slots: int
    leaves_at: datetime | None
    tree: str = ""
    is_former: bool = False


@dataclass(frozen=True, slots=True)
class SeatSums:
    """Seats at one node: their number, prompt tokens without a first token, and output tokens expected."""

    running: int = 0
    prefill_left: int = 0
    output_left: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """What all web processes see: nodes, seats by node, waiting requests by model, and new digests.

    `seats` are those of the other processes: a process knows its own ones better.
    `next_ones` are the first waiting requests of each model, in the order in which they get a node. `served` has the
    models that the pool serves, also where it has no node of them now, with what each promises.
    """

    nodes: tuple[PoolNode, ...] = ()
    seats: dict[str, SeatSums] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    next_ones: dict[str, tuple[UUID, ...]] = field(default_factory=dict)
    served: dict[str, Promise] = field(default_factory=dict)
    blocks: tuple[tuple[str, int], ...] = ()
    read_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class HeldSeat:
    """A seat as its web process knows it."""

    request_id: UUID
    account: int
    model: str
    node: str
    device_class: str
    priority: int
    prompt_tokens: int
    expected_tokens: int
    queued_at: datetime


def exchange(*, process: UUID, outbox: Outbox, blocks_since: datetime) -> View:
    """Say that `process` lives, write `outbox`, and read the view with the digests used after `blocks_since`."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")
        cursor.execute(
            "INSERT INTO capacity_webprocess (id, seen_at) VALUES (%s, clock_timestamp()) "
            "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at RETURNING seen_at",
            [process],
        )
        read_at = cursor.fetchone()[0]
        _write(cursor, outbox)
        seats, waiting = _read_seats(cursor, process)
        served = list(ServedModel.objects.all())
        return View(
            nodes=_read_nodes({one.name: one.slots for one in served}),
            seats=seats,
            waiting=waiting,
            served={one.name: Promise(one.first_token_p99_ms, one.token_p99_ms) for one in served},
            next_ones={model: _read_next(cursor, model) for model in waiting},
            blocks=_read_blocks(cursor, blocks_since),
            read_at=read_at,
        )


def free_unknown(*, process: UUID, held: Iterable[UUID], queued_before: datetime) -> int:
    """Free seats of `process` that it does not hold, queued before this time; return their number.

    They are left over where a client disconnected, or an admission failed, at the wrong moment.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM capacity_seat WHERE process = %s AND queued_at < %s AND NOT request_id = ANY(%s)",
            [process, queued_before, sorted(held)],
        )
        return int(cursor.rowcount)


def restore(*, process: UUID, held: Iterable[HeldSeat]) -> int:
    """Write those seats of `process` again that others freed, because it was silent; return their number."""
    columns = (
        "request_id, process, account, model, node, device_class, priority, prompt_tokens, cached_tokens, "
    )
    columns += "expected_tokens, queued_at, sent_at"
    n_restored = 0
    with transaction.atomic(), connection.cursor() as cursor:
        for seat in sorted(held, key=lambda seat: seat.request_id):
            cursor.execute(
                f"INSERT INTO capacity_seat ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0, %s, %s, %s) "  # noqa: S608
                "ON CONFLICT (request_id) DO NOTHING",
                [
                    seat.request_id, process, seat.account, seat.model, seat.node, seat.device_class, seat.priority,
                    seat.prompt_tokens, seat.expected_tokens, seat.queued_at, seat.queued_at if seat.node else None,
                ],
            )  # fmt: skip
            n_restored += cursor.rowcount
    return n_restored


def forget_old(*, now: datetime) -> int:
    """Drop digests that no node has in its cache any more, old arrivals, and histories without an answer for months.

    Returns the number of digests. For beat.
    """
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM capacity_arrivals WHERE step_at < %s", [now - ARRIVALS_KEPT])
        cursor.execute("DELETE FROM capacity_outputhistory WHERE updated_at < %s", [now - HISTORY_KEPT])
        cursor.execute("DELETE FROM capacity_cachedblock WHERE used_at < %s", [now - BLOCK_LIFE])
        return int(cursor.rowcount)


def _write(cursor: Any, outbox: Outbox) -> None:
    """Write what is in `outbox`; rows in the order of their keys, so that two processes never wait for each other."""
    if outbox.first_tokens:
        ids = sorted(outbox.first_tokens)
        cursor.execute(
            "UPDATE capacity_seat s SET first_token_at = n.at FROM unnest(%s::uuid[], %s::timestamptz[]) AS n(id, at) "
            "WHERE s.request_id = n.id",
            [ids, [outbox.first_tokens[request_id] for request_id in ids]],
        )
    if steps := sorted({*outbox.arrivals, *outbox.ended}):
        cursor.execute(
            "INSERT INTO capacity_arrivals AS a (model, step_at, requests, ended, late, slow) "
            "SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) "
            "ON CONFLICT (model, step_at) DO UPDATE SET requests = a.requests + excluded.requests, "
            "ended = a.ended + excluded.ended, late = a.late + excluded.late, slow = a.slow + excluded.slow",
            [
                [model for model, _ in steps],
                [at for _, at in steps],
                *(
                    [counts[key] for key in steps]
                    for counts in (outbox.arrivals, outbox.ended, outbox.late, outbox.slow)
                ),
            ],
        )
    if outbox.windows:
        _write_windows(cursor, outbox.windows)
    if outbox.lengths:
        _write_lengths(cursor, outbox.lengths)
    if outbox.blocks:
        blocks = sorted(outbox.blocks)
        cursor.execute(
            "INSERT INTO capacity_cachedblock (node, digest, used_at) "
            "SELECT n, d, clock_timestamp() FROM unnest(%s::text[], %s::bigint[]) AS u(n, d) "
            "ON CONFLICT (node, digest) DO UPDATE SET used_at = excluded.used_at",
            [[node for node, _ in blocks], [digest for _, digest in blocks]],
        )


def _write_windows(cursor: Any, windows: dict[WindowKey, Counted]) -> None:
    keys = sorted(windows)
    sums = ", ".join(f"{name} = capacity_nodewindow.{name} + excluded.{name}" for name in COUNTED)
    cursor.execute(
        f"INSERT INTO capacity_nodewindow (node, model, device_class, window_at, {', '.join(COUNTED)}) "  # noqa: S608
        "SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[]"
        f"{', %s::bigint[]' * len(COUNTED)}) ON CONFLICT (node, model, window_at) DO UPDATE SET {sums}",
        [
            *([key[i] for key in keys] for i in range(4)),
            *([getattr(windows[key], name) for key in keys] for name in COUNTED),
        ],
    )


def _write_lengths(cursor: Any, lengths: dict[tuple[str, str], list[int]]) -> None:
    cursor.executemany(
        "INSERT INTO capacity_outputhistory AS h (payer, endpoint, requests, tokens, buckets, updated_at) "
        "VALUES (%s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (payer, endpoint) DO UPDATE SET "
        # Halved now and then, so that a key that changes its habits is known again after some hundred answers.
        "requests = CASE WHEN h.requests > 1000 THEN h.requests / 2 ELSE h.requests END + excluded.requests, "
        "tokens = CASE WHEN h.requests > 1000 THEN h.tokens / 2 ELSE h.tokens END + excluded.tokens, "
        "buckets = ARRAY(SELECT CASE WHEN h.requests > 1000 THEN o / 2 ELSE o END + n "
        "FROM unnest(h.buckets, excluded.buckets) AS u(o, n)), updated_at = excluded.updated_at",
        [[*key, len(lengths[key]), sum(lengths[key]), buckets_of(lengths[key])] for key in sorted(lengths)],
    )


def _read_seats(cursor: Any, process: UUID) -> tuple[dict[str, SeatSums], dict[str, int]]:
    cursor.execute(
        "SELECT node, CASE WHEN node = '' THEN model ELSE '' END, count(*), "
        "coalesce(sum(greatest(prompt_tokens - cached_tokens, 0)) FILTER (WHERE first_token_at IS NULL), 0), "
        "sum(expected_tokens) FROM capacity_seat WHERE node = '' OR process <> %s GROUP BY 1, 2",
        [process],
    )
    seats: dict[str, SeatSums] = {}
    waiting: dict[str, int] = {}
    for node, model, n, prefill, output in cursor.fetchall():
        if node:
            seats[node] = SeatSums(int(n), int(prefill), int(output))
        else:
            waiting[model] = int(n)
    return seats, waiting


def _read_next(cursor: Any, model: str) -> tuple[UUID, ...]:
    cursor.execute("SELECT request_id FROM capacity_waiting(%s) ORDER BY place LIMIT %s", [model, MOST_NEXT])
    return tuple(row[0] for row in cursor.fetchall())


def _read_nodes(slots: Mapping[str, int]) -> tuple[PoolNode, ...]:
    default_slots = int(ServedModel._meta.get_field("slots").get_default())
    trees, formers = serving_trees(), former_trees(timezone.now())
    rows: Sequence[Node] = list(
        Node.objects.filter(state__in=(NodeState.READY, NodeState.DRAINING), hung_at=None)
        .exclude(url="")
        .select_related("host__device_class")
    )
    return tuple(
        PoolNode(
            key=str(node.pk),
            id=node.pk,
            url=node.url.rstrip("/"),
            model=node.model,
            state=NodeState(node.state)
            if node.tree in (trees.get(node.model, ""), formers.get(node.model))
            else NodeState.DRAINING,
            device_class=node.host.device_class.name,
            price=node.price_microcredits_per_device_hour,
            is_preemptible=node.host.device_class.is_preemptible,
            slots=slots.get(node.model, default_slots),
            leaves_at=node.host.leaves_at,
            tree=node.tree or node.host.version,
            is_former=node.tree != trees.get(node.model, ""),
        )
        for node in rows
    )


def _read_blocks(cursor: Any, since: datetime) -> tuple[tuple[str, int], ...]:
    cursor.execute(
        "SELECT node, digest FROM capacity_cachedblock WHERE used_at > %s ORDER BY used_at DESC LIMIT %s",
        [since - BLOCK_OVERLAP, MOST_BLOCKS],
    )
    return tuple((node, digest) for node, digest in cursor.fetchall())


def history_of(*, payer: str, endpoint: str) -> History:
    """Lengths of the earlier answers to this payer at this endpoint."""
    row = OutputHistory.objects.filter(payer=payer, endpoint=endpoint).first()
    return History() if row is None else History(row.requests, row.tokens, tuple(row.buckets))
