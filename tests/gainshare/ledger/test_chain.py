"""The hash chain: pure linking, sealing in batches, and the periodic tasks."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.utils import timezone

from gainshare.config.celery import app
from gainshare.ledger import services, tasks
from gainshare.ledger.chain import GENESIS, SealedEntry, link_hash
from gainshare.ledger.models import Entry, Hold, Seal, Unsealed
from tests.gainshare.ledger.ledger_world import World, violations

ENTRY = SealedEntry(
    entry_id=1,
    transfer_id=UUID(int=7),
    kind="fund",
    account_id=2,
    amount=-5,
    created_at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
)


def test_a_link_is_the_hash_of_the_link_before_and_a_line_per_entry() -> None:
    text = (
        f"{GENESIS}\n"
        "1 00000000-0000-0000-0000-000000000007 fund 2 -5 2026-01-02T03:04:05.000006+00:00\n"
        "2 00000000-0000-0000-0000-000000000007 fund 2 -5 2026-01-02T03:04:05.000006+00:00\n"
    )
    made = link_hash(GENESIS, [ENTRY, replace(ENTRY, entry_id=2)])
    assert made == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"entry_id": 2},
        {"transfer_id": UUID(int=8)},
        {"kind": "grant"},
        {"account_id": 3},
        {"amount": 5},
        {"created_at": datetime(2026, 1, 2, 3, 4, 5, 7, tzinfo=UTC)},
    ],
)
def test_every_field_of_an_entry_counts(change: dict[str, object]) -> None:
    assert link_hash(GENESIS, [ENTRY]) != link_hash(GENESIS, [replace(ENTRY, **change)])  # type: ignore[arg-type]


def test_order_and_the_link_before_count() -> None:
    other = replace(ENTRY, entry_id=2)
    assert link_hash(GENESIS, [ENTRY, other]) != link_hash(GENESIS, [other, ENTRY])
    assert link_hash(GENESIS, [ENTRY]) != link_hash("1" * 64, [ENTRY])


@pytest.mark.django_db
def test_entries_are_sealed_in_batches_that_link() -> None:
    world = World()
    for _ in range(5):
        world.fund(1)
    assert Unsealed.objects.count() == 12
    assert services.seal_entries(batch=5) == 12
    seals = list(Seal.objects.order_by("pk"))
    assert [len(seal.entry_ids) for seal in seals] == [5, 5, 2]
    assert [seal.previous_hash for seal in seals] == [GENESIS, seals[0].hash, seals[1].hash]
    assert Unsealed.objects.count() == 0
    assert services.seal_entries(batch=5) == 0
    world.fund(1)
    assert services.seal_entries() == 2
    assert violations() == []


@pytest.mark.django_db
def test_the_beat_tasks_expire_and_seal() -> None:
    world = World()
    lot = world.grant(world.ann, 50)
    hold = world.hold(world.ann, 20, expires_at=timezone.now() - timedelta(seconds=1))
    tasks.expire_holds()
    assert Hold.objects.get(pk=hold.pk).state == "expired"
    with pytest.MonkeyPatch.context() as patch:
        late = timezone.now() + timedelta(days=2)
        soon = world.grant(world.ann, 7, expires_at=timezone.now() + timedelta(days=1))
        patch.setattr("gainshare.ledger.tasks.timezone.now", lambda: late)
        tasks.expire_holds()
        soon.refresh_from_db()
    lot.refresh_from_db()
    assert (soon.posted_microcredits, lot.posted_microcredits) == (0, 50)
    tasks.seal_entries()
    assert Unsealed.objects.count() == 0
    assert sum(len(seal.entry_ids) for seal in Seal.objects.all()) == Entry.objects.count()


def test_beat_runs_the_ledgers_tasks_by_the_names_they_have() -> None:
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert {tasks.expire_holds.name, tasks.seal_entries.name} <= scheduled
