"""Royalties move from revenue to a lot of their own, once, and only what users spent."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.accounts.models import User
from gainshare.ledger import services
from gainshare.ledger.audit import audit
from gainshare.ledger.errors import IdConflict, InsufficientRevenue, TransferResolved
from gainshare.ledger.kinds import AccountKind, TransferState
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.posting import single_account
from tests.gainshare.ledger.ledger_world import World, posted, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    """Ann spent 1,000 micro-credits."""
    world = World()
    world.grant(world.ann, 2_000)
    world.spend(world.ann, 1_000)
    return world


def book(
    world: World, amount: int = 300, *, user: User | None = None, transfer_id: UUID | None = None
) -> Transfer:
    return services.book_royalty(
        transfer_id=transfer_id or uuid4(),
        user=user or world.bob,
        amount_microcredits=amount,
        reference="gain:1",
    )


def revenue() -> Account:
    return Account.objects.get(pk=single_account(AccountKind.REVENUE).pk)


def test_an_unvested_royalty_is_reserved_and_cannot_be_spent(world: World) -> None:
    royalty = book(world)
    assert (royalty.state, revenue().available_microcredits) == (TransferState.PENDING, 700)
    found = services.balance(world.bob)
    assert (found.available, found.unvested) == (0, 300)
    assert violations() == []


def test_it_vests_once_into_a_lot_of_its_own(world: World) -> None:
    royalty = book(world)
    lots = [services.vest_royalty(transfer_id=royalty.pk) for _ in range(2)]
    assert lots[0] == lots[1]
    assert (lots[0].source, posted(lots[0]), posted(revenue())) == ("royalty", 300, 700)
    assert services.balance(world.bob).available == 300
    assert violations() == []


def test_a_voided_one_stays_in_revenue_and_never_vests(world: World) -> None:
    royalty = book(world)
    assert {services.void_royalty(transfer_id=royalty.pk).state for _ in range(2)} == {TransferState.VOIDED}
    with pytest.raises(TransferResolved, match="voided"):
        services.vest_royalty(transfer_id=royalty.pk)
    assert (posted(revenue()), services.balance(world.bob).unvested) == (1_000, 0)
    assert violations() == []


def test_a_vested_one_is_not_voided(world: World) -> None:
    royalty = book(world)
    services.vest_royalty(transfer_id=royalty.pk)
    with pytest.raises(TransferResolved, match="vested"):
        services.void_royalty(transfer_id=royalty.pk)


def test_the_same_id_books_once_and_other_terms_conflict(world: World) -> None:
    royalty = book(world)
    assert book(world, transfer_id=royalty.pk) == royalty
    with pytest.raises(IdConflict, match="amount"):
        book(world, 299, transfer_id=royalty.pk)
    with pytest.raises(IdConflict, match="user"):
        book(world, user=world.ann, transfer_id=royalty.pk)
    assert revenue().pending_microcredits == 300


def test_no_more_than_revenue_is_booked(world: World) -> None:
    book(world, 900)
    with pytest.raises(InsufficientRevenue, match="only 100"):
        book(world, 101)


def test_a_debt_is_repaid_from_it_first(world: World) -> None:
    escrow = world.escrow(500)
    award, _ = world.award(world.bob, escrow, 200)
    world.spend(world.bob, 150)
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="test")
    assert services.balance(world.bob).owed == 150
    services.vest_royalty(transfer_id=book(world, 200).pk)
    found = services.balance(world.bob)
    assert (found.owed, found.available) == (0, 50)
    assert violations() == []


@pytest.mark.parametrize(
    ("payer", "payee"), [("treasury", "lot"), ("escrow", "lot"), ("revenue", "treasury"), ("lot", "lot")]
)
def test_the_database_lets_royalties_flow_from_revenue_to_lots_only(
    world: World, payer: str, payee: str
) -> None:
    world.escrow(100)
    accounts: dict[str, Any] = {
        "treasury": single_account(AccountKind.TREASURY),
        "revenue": revenue(),
        "escrow": Account.objects.filter(kind=AccountKind.ESCROW).first(),
        "lot": world.grant(world.bob, 50),
    }
    with pytest.raises(IntegrityError, match="a royalty does not move"), transaction.atomic():
        Transfer.objects.create(
            id=uuid4(),
            kind="royalty",
            state="pending",
            from_account=accounts[payer],
            to_account=accounts[payee],
            amount_microcredits=1,
        )


def test_the_database_has_none_begin_posted(world: World) -> None:
    with pytest.raises(IntegrityError, match="does not start posted"), transaction.atomic():
        connection.cursor().execute(
            "INSERT INTO ledger_transfer (id, kind, state, from_account_id, to_account_id, amount_microcredits, "
            "posted_amount, terms, memo, reference, created_at, resolved_at) "
            "SELECT %s, 'royalty', 'posted', %s, id, 1, 1, '{}', '', '', now(), now() "
            "FROM ledger_account WHERE kind = 'wallet_lot' LIMIT 1",
            [uuid4(), revenue().pk],
        )


def test_the_audit_sees_royalties_beyond_their_share_of_revenue(world: World) -> None:
    book(world, 300)
    assert {each.name: each.value for each in audit()}["royalties_within_revenue"] == 300
    book(world, 1)
    assert {each.name for each in violations()} == {"royalties_within_revenue"}


def test_the_audit_sees_a_royalty_in_another_lot(world: World) -> None:
    royalty = book(world, 300)
    connection.cursor().execute("SET LOCAL session_replication_role = replica")
    connection.cursor().execute(
        "UPDATE ledger_account SET source = 'award' WHERE id = %s", [royalty.to_account_id]
    )
    connection.cursor().execute("SET LOCAL session_replication_role = origin")
    assert {each.name for each in violations()} == {"royalties_vest_into_their_own_lots"}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.sampled_from(["wait", "vest", "void"])), max_size=8))
def test_credits_are_neither_made_nor_lost(steps: list[tuple[int, str]]) -> None:
    with transaction.atomic():
        world = World()
        world.grant(world.ann, 10_000)
        world.spend(world.ann, 10_000)
        spent, vested = 10_000, 0
        for amount, end in steps:
            royalty = book(world, amount)
            if end == "vest":
                services.vest_royalty(transfer_id=royalty.pk)
                vested += amount
            elif end == "void":
                services.void_royalty(transfer_id=royalty.pk)
        assert posted(revenue()) == spent - vested
        assert services.balance(world.bob).available == vested
        assert violations() == []
        transaction.set_rollback(True)
