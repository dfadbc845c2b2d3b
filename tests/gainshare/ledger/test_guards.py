"""Direct SQL cannot break an invariant: the database itself refuses, whoever writes to it."""

from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.kinds import FLOWS, OWNED, AccountKind, TransferKind
from gainshare.ledger.models import Account, Entry, Hold, Seal, Transfer
from gainshare.ledger.price_book import publish_price
from gainshare.ledger.services.posting import TWO_PHASE, receivable_of, single_account
from tests.gainshare.ledger.ledger_world import World, violations

pytestmark = pytest.mark.django_db


def refused(statement: str, parameters: list[Any] | None = None, *, match: str = "") -> None:
    """Runs the statement as a transaction of its own would, deferred checks included; it must fail."""
    with pytest.raises(IntegrityError, match=match), transaction.atomic():
        connection.cursor().execute(statement, parameters)
        connection.check_constraints()
    connection.check_constraints()


def insert_transfer(kind: str, payer: int, payee: int | None, amount: int, state: str, **more: Any) -> UUID:
    fields = {
        "id": uuid4(),
        "kind": kind,
        "state": state,
        "from_account_id": payer,
        "to_account_id": payee,
        "amount_microcredits": amount,
        "posted_amount": amount if state == "posted" else None,
        "terms": "{}",
        "memo": "",
        "reference": "",
        "created_at": timezone.now(),
        "resolved_at": None if state == "pending" else timezone.now(),
        **more,
    }
    columns, places = ", ".join(fields), ", ".join(["%s"] * len(fields))
    connection.cursor().execute(
        f"INSERT INTO ledger_transfer ({columns}) VALUES ({places})", [*fields.values()]
    )
    return fields["id"]


@pytest.fixture
def world() -> World:
    """A ledger with a row of every kind in it."""
    world = World()
    escrow = world.escrow(1_000)
    world.grant(world.ann, 100)
    award, _ = world.award(world.ann, escrow, 50)
    world.book(world.bob, escrow, 70)
    world.reserve(escrow, 30)
    world.spend(world.ann, 20)
    world.hold(world.ann, 10)
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="test")
    services.seal_entries()
    world.fund(5)  # waits for its seal
    connection.check_constraints()
    return world


@pytest.mark.parametrize(
    "table", ["entry", "reversal", "priceversion", "seal", "account", "transfer", "hold", "unsealed"]
)
@pytest.mark.parametrize("verb", ["DELETE FROM", "TRUNCATE"])
def test_nothing_vanishes(world: World, table: str, verb: str) -> None:
    if table == "priceversion":
        publish_price(
            model="tiny", effective_at=timezone.now(), cached_input=1, fresh_input=1, output=1, actor=None
        )
        connection.check_constraints()
    assert connection.cursor().execute(f"SELECT count(*) FROM ledger_{table}").fetchone()[0] > 0
    cascade = " CASCADE" if verb == "TRUNCATE" else ""
    refused(f"{verb} ledger_{table}{cascade}", match="refused|by themselves")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE ledger_entry SET amount = amount + 1", "UPDATE on ledger_entry"),
        ("UPDATE ledger_entry SET account_id = account_id", "UPDATE on ledger_entry"),
        ("UPDATE ledger_reversal SET reason = ''", "UPDATE on ledger_reversal"),
        ("UPDATE ledger_seal SET hash = repeat('1', 64)", "UPDATE on ledger_seal"),
        ("UPDATE ledger_unsealed SET entry_id = entry_id", "by themselves"),
        ("UPDATE ledger_account SET posted_microcredits = posted_microcredits + 1", "move a balance"),
        (
            "UPDATE ledger_account SET pending_microcredits = 0 WHERE pending_microcredits > 0",
            "move a balance",
        ),
        (
            "UPDATE ledger_account SET owner_id = owner_id + 1 WHERE kind = 'wallet_lot'",
            "keeps its description",
        ),
        ("UPDATE ledger_account SET expires_at = now() WHERE kind = 'wallet_lot'", "keeps its description"),
        ("UPDATE ledger_account SET closed_at = now() WHERE kind = 'wallet_lot'", "only an open escrow"),
        ("UPDATE ledger_transfer SET posted_amount = 1 WHERE state = 'posted'", "posts less|is resolved"),
        ("UPDATE ledger_transfer SET memo = 'x' WHERE state = 'posted'", "is resolved"),
        (
            "UPDATE ledger_transfer SET state = 'pending', posted_amount = NULL, resolved_at = NULL "
            "WHERE state = 'posted'",
            "is resolved",
        ),
        ("UPDATE ledger_transfer SET state = 'expired' WHERE state = 'voided'", "is resolved"),
        ("UPDATE ledger_transfer SET amount_microcredits = 1 WHERE state = 'pending'", "only be resolved"),
        (
            "UPDATE ledger_transfer SET state = 'voided', resolved_at = now(), amount_microcredits = 1 "
            "WHERE state = 'pending'",
            "only be resolved",
        ),
        (
            "UPDATE ledger_transfer SET state = 'posted', posted_amount = amount_microcredits, resolved_at = now() "
            "WHERE kind = 'award' AND state = 'pending'",
            "do not sum to zero",
        ),
        (
            "UPDATE ledger_transfer SET state = 'posted', posted_amount = amount_microcredits, resolved_at = now() "
            "WHERE kind = 'reservation' AND state = 'pending'",
            "reservation_never_posts",
        ),
        (
            "UPDATE ledger_transfer SET state = 'posted', posted_amount = amount_microcredits - 1, "
            "resolved_at = now() WHERE kind = 'award' AND state = 'pending'",
            "posts less",
        ),
        (
            "UPDATE ledger_transfer SET state = 'posted', posted_amount = amount_microcredits + 1, "
            "resolved_at = now() WHERE kind = 'usage' AND state = 'pending'",
            "posts_within",
        ),
        (
            "UPDATE ledger_transfer SET state = 'voided', resolved_at = now() WHERE kind = 'usage' AND state = 'pending'",
            "legs of hold",
        ),
        ("UPDATE ledger_hold SET amount = amount + 1 WHERE state = 'open'", "only be resolved"),
        ("UPDATE ledger_hold SET settled = 0 WHERE state = 'settled'", "is resolved"),
        (
            "UPDATE ledger_hold SET state = 'open', resolved_at = NULL, settled = 0 WHERE state = 'settled'",
            "is resolved",
        ),
        (
            "UPDATE ledger_hold SET state = 'settled', settled = amount + 1, resolved_at = now() WHERE state = 'open'",
            "settles_within",
        ),
        (
            "UPDATE ledger_hold SET state = 'settled', settled = amount, resolved_at = now() WHERE state = 'open'",
            "legs of hold",
        ),
        (
            "UPDATE ledger_hold SET state = 'voided', settled = 1, resolved_at = now() WHERE state = 'open'",
            "only_when_settled",
        ),
    ],
)
def test_nothing_is_rewritten(world: World, statement: str, match: str) -> None:
    refused(statement, match=match)
    assert violations() == []


def test_money_does_not_appear_with_an_account(world: World) -> None:
    for column in ("posted_microcredits", "pending_microcredits"):
        fields = {"kind": "escrow", "reference": "bounty:x", column: 5}
        with pytest.raises(IntegrityError, match="starts empty"), transaction.atomic():
            Account.objects.create(**fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.create(kind="treasury", reference="second")
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.create(kind="treasury")
    with pytest.raises(IntegrityError, match="owner_by_kind"), transaction.atomic():
        Account.objects.create(kind="wallet_lot", reference="grant:x")


def test_a_transfer_without_entries_is_refused_at_commit(world: World) -> None:
    with pytest.raises(IntegrityError, match="do not sum to zero"), transaction.atomic():
        insert_transfer(
            "fund",
            single_account(AccountKind.ISSUANCE).pk,
            single_account(AccountKind.TREASURY).pk,
            10,
            "posted",
        )
        connection.check_constraints()


@pytest.mark.parametrize("amounts", [(-10, 11), (-10,), (10, -10), (-9, 9), (-10, 10, 0)])
def test_entries_that_do_not_fit_their_transfer_are_refused(world: World, amounts: tuple[int, ...]) -> None:
    accounts = [
        single_account(kind).pk for kind in (AccountKind.ISSUANCE, AccountKind.TREASURY, AccountKind.REVENUE)
    ]
    with pytest.raises(IntegrityError), transaction.atomic():
        transfer_id = insert_transfer("fund", accounts[0], accounts[1], 10, "posted")
        Entry.objects.bulk_create(
            Entry(transfer_id=transfer_id, account_id=account, amount=amount)
            for account, amount in zip(accounts, amounts, strict=False)
        )
        connection.check_constraints()
    assert violations() == []


def test_a_posted_transfer_takes_no_further_entries(world: World) -> None:
    transfer = Transfer.objects.filter(kind=TransferKind.FUND).first()
    revenue, breakage = single_account(AccountKind.REVENUE), single_account(AccountKind.BREAKAGE)
    with pytest.raises(IntegrityError, match="do not sum to zero"), transaction.atomic():
        Entry.objects.create(transfer=transfer, account=revenue, amount=-5)
        Entry.objects.create(transfer=transfer, account=breakage, amount=5)
        connection.check_constraints()


def test_a_pending_transfer_takes_no_entries(world: World) -> None:
    award = Transfer.objects.get(kind=TransferKind.AWARD, state="pending")
    with pytest.raises(IntegrityError, match="do not sum to zero"), transaction.atomic():
        Entry.objects.create(transfer=award, account_id=award.from_account_id, amount=-70)
        Entry.objects.create(transfer=award, account_id=award.to_account_id, amount=70)
        connection.check_constraints()


def test_no_account_is_overdrawn(world: World) -> None:
    escrow = Account.objects.get(kind=AccountKind.ESCROW)
    with pytest.raises(IntegrityError, match="never_overdrawn"), transaction.atomic():
        insert_transfer("reservation", escrow.pk, None, escrow.available_microcredits + 1, "pending")
    treasury = single_account(AccountKind.TREASURY)
    amount = treasury.available_microcredits + 1
    with pytest.raises(IntegrityError, match="never_overdrawn"), transaction.atomic():
        transfer_id = insert_transfer("escrow", treasury.pk, escrow.pk, amount, "posted")
        Entry.objects.create(transfer_id=transfer_id, account=treasury, amount=-amount)


def test_a_receivable_is_never_repaid_beyond_what_is_owed(world: World) -> None:
    lot = Account.objects.filter(
        kind=AccountKind.WALLET_LOT, owner=world.ann, posted_microcredits__gt=30
    ).get()
    receivable = receivable_of(world.ann.pk)
    amount = 1 - receivable.posted_microcredits
    with pytest.raises(IntegrityError, match="never_overdrawn"), transaction.atomic():
        transfer_id = insert_transfer("repayment", lot.pk, receivable.pk, amount, "posted")
        Entry.objects.create(transfer_id=transfer_id, account=receivable, amount=amount)


def test_no_one_repays_with_another_persons_lot(world: World) -> None:
    lot = world.grant(world.bob, 10)
    with pytest.raises(IntegrityError, match="another person owes"), transaction.atomic():
        insert_transfer("repayment", lot.pk, receivable_of(world.ann.pk).pk, 1, "posted")


def test_a_hold_takes_only_its_own_users_lots(world: World) -> None:
    hold = Hold.objects.create(user=world.bob, amount=5, expires_at=timezone.now() + timedelta(hours=1))
    lot = Account.objects.filter(
        kind=AccountKind.WALLET_LOT, owner=world.ann, posted_microcredits__gt=30
    ).get()
    with pytest.raises(IntegrityError, match="own user"), transaction.atomic():
        insert_transfer(
            "usage",
            lot.pk,
            single_account(AccountKind.REVENUE).pk,
            5,
            "pending",
            hold_id=hold.pk,
            position=0,
        )
    with pytest.raises(IntegrityError, match="legs of hold"), transaction.atomic():
        connection.check_constraints()  # the hold has no legs yet
    transaction.set_rollback(True)


def test_a_hold_starts_open(world: World) -> None:
    with pytest.raises(IntegrityError, match="starts open"), transaction.atomic():
        Hold.objects.create(
            user=world.ann, amount=0, state="settled", expires_at=timezone.now(), resolved_at=timezone.now()
        )


def test_a_closed_escrow_stays_closed(world: World) -> None:
    reference = world.escrow(10)
    services.close_escrow(transfer_id=uuid4(), reference=reference)
    escrow = Account.objects.get(reference=reference)
    refused(
        "UPDATE ledger_account SET closed_at = NULL WHERE id = %s", [escrow.pk], match="only an open escrow"
    )
    for make in (
        lambda: insert_transfer("reservation", escrow.pk, None, 1, "pending"),
        lambda: insert_transfer("escrow", single_account(AccountKind.TREASURY).pk, escrow.pk, 1, "posted"),
    ):
        with pytest.raises(IntegrityError, match="escrow is closed"), transaction.atomic():
            make()


def test_a_reversal_matches_its_award(world: World) -> None:
    award = world.book(world.bob, world.escrow(100), 40)
    fields = {"id": str(uuid4()), "award": str(award.pk), "now": timezone.now()}
    for parts in ((40, 0, 0), (0, 40, 0), (0, 0, 41)):
        with pytest.raises(IntegrityError, match="does not match its award"), transaction.atomic():
            connection.cursor().execute(
                "INSERT INTO ledger_reversal (id, award_id, from_escrow, from_lot, receivable, reason, created_at)"
                " VALUES (%(id)s, %(award)s, %(a)s, %(b)s, %(c)s, '', %(now)s)",
                {**fields, "a": parts[0], "b": parts[1], "c": parts[2]},
            )
            connection.check_constraints()


def test_an_entry_is_sealed_once_and_the_chain_never_forks(world: World) -> None:
    last = Seal.objects.latest("pk")
    waiting = list(Entry.objects.filter(unsealed__isnull=False).values_list("pk", flat=True))
    assert len(waiting) == 2
    new_hash = "f" * 64
    for entry_ids, previous, match in (
        (last.entry_ids, last.hash, "each once"),
        ([waiting[0], waiting[0]], last.hash, "each once"),
        ([], last.hash, "each once"),
        (waiting, "0" * 64, "never_forks"),
        (waiting, "e" * 64, "follows the last one"),
    ):
        with pytest.raises(IntegrityError, match=match), transaction.atomic():
            Seal.objects.create(entry_ids=entry_ids, previous_hash=previous, hash=new_hash)


def account_of(world: World, kind: AccountKind) -> int:
    if kind == AccountKind.RECEIVABLE:
        return receivable_of(world.bob.pk).pk
    if kind not in (AccountKind.ESCROW, *OWNED):
        return single_account(kind).pk
    owner = world.bob if kind in OWNED else None
    return Account.objects.create(kind=kind, owner=owner, reference=f"test:{uuid4()}").pk


def test_the_database_knows_the_same_flows_as_the_code(world: World) -> None:
    accounts: dict[AccountKind | None, int | None] = {kind: account_of(world, kind) for kind in AccountKind}
    accounts[None] = None
    hold = Hold.objects.create(user=world.bob, amount=1, expires_at=timezone.now())

    def is_flow(kind: TransferKind, payer: AccountKind, payee: AccountKind | None) -> bool:
        """Whether the trigger lets the pair through; what refuses later (an empty account) is not its matter."""
        leg = {"hold_id": hold.pk, "position": 0} if kind == TransferKind.USAGE else {}
        state = "pending" if kind in TWO_PHASE else "posted"
        try:
            with transaction.atomic():
                insert_transfer(kind, accounts[payer] or 0, accounts[payee], 1, state, **leg)
                raise UndoneError
        except UndoneError:
            return True
        except IntegrityError as error:
            return "does not move" not in str(error)

    tried = list(product(TransferKind, AccountKind, [*AccountKind, None]))
    allowed = {(kind, payer, payee) for kind, payer, payee in tried if is_flow(kind, payer, payee)}
    assert allowed == {(kind, *pair) for kind, pairs in FLOWS.items() for pair in pairs}
    transaction.set_rollback(True)


class UndoneError(Exception):
    """Rolls a successful attempt back."""


def test_a_transfer_starts_in_the_state_of_its_kind(world: World) -> None:
    escrow = Account.objects.get(kind=AccountKind.ESCROW)
    make: Callable[[], object]
    for make in (
        lambda: insert_transfer("reservation", escrow.pk, None, 1, "voided"),
        lambda: insert_transfer("escrow", single_account(AccountKind.TREASURY).pk, escrow.pk, 1, "pending"),
    ):
        with pytest.raises(IntegrityError, match="does not start"), transaction.atomic():
            make()


def test_flush_is_refused_outside_test_databases(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "NAME", "gainshare")
    with pytest.raises(CommandError, match="append-only"):
        call_command("flush", interactive=False, verbosity=0)
    assert Entry.objects.exists()
