"""The audit is clean after real use, and finds each kind of damage that only a superuser could do."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.audit import audit
from gainshare.ledger.models import Seal
from tests.gainshare.ledger.ledger_world import World, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    world = World()
    escrow = world.escrow(1_000)
    world.grant(world.ann, 100, expires_at=timezone.now() + timedelta(days=1))
    world.grant(world.ann, 40, priority=900, expires_at=timezone.now() + timedelta(days=1))
    award, _ = world.award(world.ann, escrow, 50)
    world.book(world.bob, escrow, 70)
    world.reserve(escrow, 30)
    world.spend(world.ann, 120)
    world.hold(world.ann, 10)
    services.expire_lots(now=timezone.now() + timedelta(days=2))
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="test")
    unvested = world.book(world.bob, escrow, 20)
    services.reverse_award(transfer_id=unvested.pk, reversal_id=uuid4(), reason="test")
    services.seal_entries(batch=5)
    world.fund(5)
    connection.check_constraints()
    return world


@contextmanager
def triggers_set_aside() -> Iterator[None]:
    """Disable every trigger for a block, as a superuser can."""
    connection.cursor().execute("SET LOCAL session_replication_role = replica")
    yield
    connection.cursor().execute("SET LOCAL session_replication_role = origin")


def test_the_audit_of_a_used_ledger_is_clean_and_has_figures(world: World) -> None:
    found = {invariant.name: invariant for invariant in audit()}
    assert all(invariant.holds for invariant in found.values())
    assert len(found) == len(audit()) >= 20
    assert found["supply_equals_issuance"].value == 1_000_005 + services.balance(world.ann).owed
    assert found["escrow_covers_unvested"].value == 70
    assert found["debts_are_explained"].value == services.balance(world.ann).owed > 0
    assert found["database_guards_active"].value == 26
    assert found["hash_chain_head"].value == Seal.objects.latest("pk").hash


def test_an_empty_ledger_is_clean() -> None:
    assert violations() == []


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (
            "UPDATE ledger_entry SET amount = amount + 1 WHERE id = (SELECT min(id) FROM ledger_entry)",
            {
                "transfers_sum_to_zero",
                "balances_equal_entries",
                "all_entries_sum_to_zero",
                "hash_chain_unbroken",
            },
        ),
        (
            "UPDATE ledger_entry SET amount = amount * 2 WHERE transfer_id = "
            "(SELECT id FROM ledger_transfer WHERE kind = 'grant' LIMIT 1)",
            {"transfers_sum_to_zero", "balances_equal_entries", "hash_chain_unbroken"},
        ),
        (
            "UPDATE ledger_entry SET created_at = created_at + interval '1 second' "
            "WHERE id = (SELECT min(id) FROM ledger_entry)",
            {"hash_chain_unbroken"},
        ),
        (
            "UPDATE ledger_entry SET account_id = (SELECT id FROM ledger_account WHERE kind = 'breakage') "
            "WHERE amount > 0 AND account_id = (SELECT id FROM ledger_account WHERE kind = 'revenue')",
            {"entries_match_their_transfers", "balances_equal_entries", "hash_chain_unbroken"},
        ),
        (
            "UPDATE ledger_account SET posted_microcredits = posted_microcredits + 1 WHERE kind = 'treasury'",
            {"balances_equal_entries", "supply_equals_issuance"},
        ),
        (
            "UPDATE ledger_account SET pending_microcredits = pending_microcredits - 1 WHERE kind = 'escrow'",
            {"pending_equals_open_transfers"},
        ),
        (
            "UPDATE ledger_transfer SET state = 'voided', resolved_at = now() WHERE kind = 'award' AND state = 'pending'",
            {"pending_equals_open_transfers", "voided_awards_were_reversed"},
        ),
        (
            "UPDATE ledger_transfer SET amount_microcredits = 99999 WHERE kind = 'award' AND state = 'pending'",
            {"pending_equals_open_transfers", "escrow_covers_unvested"},
        ),
        (
            "UPDATE ledger_transfer SET kind = 'grant' WHERE kind = 'escrow'",
            {"money_follows_the_flows", "hash_chain_unbroken"},
        ),
        (
            "UPDATE ledger_hold SET settled = settled - 1 WHERE state = 'settled'",
            {"holds_match_their_legs"},
        ),
        (
            "UPDATE ledger_hold SET state = 'voided', resolved_at = now() WHERE state = 'open'",
            {"holds_match_their_legs"},
        ),
        (
            "UPDATE ledger_hold SET resolved_at = created_at - interval '1 hour' WHERE state = 'settled'",
            {"resolved_once"},
        ),
        (
            "UPDATE ledger_reversal SET receivable = receivable + 1 WHERE receivable > 0",
            {"reversals_match_their_awards", "debts_are_explained"},
        ),
        (
            "DELETE FROM ledger_unsealed",
            {"every_entry_sealed_or_waiting_once"},
        ),
        (
            "UPDATE ledger_seal SET entry_ids = entry_ids[2:] WHERE id = (SELECT min(id) FROM ledger_seal)",
            {"hash_chain_unbroken", "every_entry_sealed_or_waiting_once"},
        ),
        (
            "DELETE FROM ledger_seal WHERE id = (SELECT min(id) FROM ledger_seal)",
            {"hash_chain_unbroken", "every_entry_sealed_or_waiting_once"},
        ),
        (
            "DELETE FROM ledger_unsealed; DELETE FROM ledger_entry WHERE transfer_id = "
            "(SELECT id FROM ledger_transfer WHERE kind = 'fund' ORDER BY created_at DESC LIMIT 1)",
            {"transfers_sum_to_zero", "balances_equal_entries"},
        ),
        (
            "INSERT INTO ledger_account (kind, owner_id, reference, posted_microcredits, pending_microcredits, "
            "created_at, priority, source, is_transferable) SELECT 'wallet_lot', owner_id, 'grant:forged', 500, 0, "
            "now(), 1, 'grant', true FROM ledger_account WHERE kind = 'wallet_lot' LIMIT 1",
            {"balances_equal_entries", "lots_have_one_source", "supply_equals_issuance"},
        ),
    ],
)
def test_the_audit_names_what_a_superuser_damaged(world: World, damage: str, names: set[str]) -> None:
    with triggers_set_aside():
        for statement in damage.split("; "):
            connection.cursor().execute(statement)
    assert {invariant.name for invariant in violations()} == names


@pytest.mark.parametrize(
    ("constraint", "table", "damage", "name"),
    [
        (
            "account_never_overdrawn",
            "account",
            "UPDATE ledger_account SET posted_microcredits = -1 WHERE kind = 'revenue'",
            "no_account_overdrawn",
        ),
        (
            "hold_settles_within",
            "hold",
            "UPDATE ledger_hold SET settled = amount + 1 WHERE state = 'settled'",
            "settled_within_hold",
        ),
        (
            "transfer_reservation_never_posts",
            "transfer",
            "UPDATE ledger_transfer SET state = 'posted', posted_amount = amount_microcredits, resolved_at = now() "
            "WHERE kind = 'reservation'",
            "reservations_never_pay",
        ),
    ],
)
def test_the_audit_sees_what_a_dropped_constraint_let_through(
    world: World, constraint: str, table: str, damage: str, name: str
) -> None:
    with triggers_set_aside():
        connection.cursor().execute(f"ALTER TABLE ledger_{table} DROP CONSTRAINT {constraint}")
        connection.cursor().execute(damage)
    assert name in {invariant.name for invariant in violations()}


def test_a_switched_off_trigger_is_noticed(world: World) -> None:
    connection.cursor().execute("ALTER TABLE ledger_entry DISABLE TRIGGER ledger_a_keep")
    assert [(found.name, found.value) for found in violations()] == [("database_guards_active", 25)]


@pytest.mark.django_db(transaction=True)
def test_the_audit_reads_one_snapshot_of_its_own() -> None:
    world = World()
    world.grant(world.ann, 10)
    assert not connection.in_atomic_block
    assert violations() == []
