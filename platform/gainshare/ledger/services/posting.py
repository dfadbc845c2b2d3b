"""Writing of transfers with their entries, and the locks and checks around it.

Everything here runs inside the caller's transaction. To avoid deadlocks, locks are always taken in one order:
the caller-made id, then hold and transfer rows, then accounts by id. (Opening a hold claims its id last, by
inserting its row, on which no other transaction can hold a lock.) Account rows are locked ``FOR NO KEY
UPDATE``, so that foreign keys that point at them do not wait.

The database's triggers move the balances; the locked objects are updated in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID, uuid5

from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.accounts.models import User
from gainshare.accounts.once import claim
from gainshare.ledger.errors import IdConflict, InvalidAmount, TransferResolved, UnknownTransfer
from gainshare.ledger.kinds import BELOW_ZERO, FLOWS, AccountKind, TransferKind, TransferState
from gainshare.ledger.models import Account, Entry, Hold, Transfer

MAX_MICROCREDITS = 10**18
"""Maximum of all credits ever issued (10^12 credits), so that no balance can overflow 64 bits."""

TWO_PHASE = frozenset(
    {TransferKind.RESERVATION, TransferKind.AWARD, TransferKind.USAGE, TransferKind.ROYALTY}
)
"""Kinds that start pending; all others are posted at once."""

Terms = Mapping[str, int | str | None]


def positive(amount: int) -> int:
    """Return ``amount`` if it is a whole number of micro-credits above zero; else raise InvalidAmount."""
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MAX_MICROCREDITS:
        raise InvalidAmount(
            f"An amount must be a whole number of micro-credits from 1 to {MAX_MICROCREDITS}."
        )
    return amount


def not_negative(amount: int) -> int:
    """Like :func:`positive`, but zero is allowed."""
    return 0 if amount == 0 and type(amount) is int else positive(amount)


def derived_id(base: UUID, step: str) -> UUID:
    """Id of a transfer that follows from another call; the same for every repetition."""
    return uuid5(base, step)


def made_before(transfer_id: UUID, kind: TransferKind, terms: Terms) -> Transfer | None:
    """Lock the id and return its transfer, or None. Raises IdConflict if the transfer has other terms."""
    claim(transfer_id)
    made = Transfer.objects.select_related("from_account", "to_account").filter(pk=transfer_id).first()
    if made is None:
        return None
    if made.kind != kind:
        raise IdConflict(f"The id {transfer_id} already belongs to a transfer of kind {made.kind}.")
    differing = sorted(key for key in {*made.terms, *terms} if made.terms.get(key) != terms.get(key))
    if differing:
        raise IdConflict(
            f"The id {transfer_id} already belongs to a transfer with other {', '.join(differing)}."
        )
    return made


def single_account(kind: AccountKind) -> Account:
    """The single account of a kind, created at its first use."""
    return _found_or_made(kind, "", None)


def receivable_of(user_id: int) -> Account:
    """The account of a user's debt, created at its first use."""
    return _found_or_made(AccountKind.RECEIVABLE, f"user:{user_id}", user_id)


def _found_or_made(kind: AccountKind, reference: str, owner_id: int | None) -> Account:
    found = Account.objects.filter(kind=kind, reference=reference).first()
    if found is None:
        # Two concurrent first uses get the same row.
        made = Account(kind=kind, reference=reference, owner_id=owner_id)
        Account.objects.bulk_create([made], ignore_conflicts=True)
        found = Account.objects.get(kind=kind, reference=reference)
    return found


def lock_accounts(ids: Iterable[int]) -> dict[int, Account]:
    """Lock the accounts in the order of their ids, and reload them."""
    rows = Account.objects.select_for_update(no_key=True).filter(pk__in=set(ids)).order_by("pk")
    return {account.pk: account for account in rows}


def lock_transfer(transfer_id: UUID, kind: TransferKind) -> Transfer:
    """Lock a two-phase transfer. Raises UnknownTransfer if there is none of this kind."""
    found = (
        Transfer.objects.select_for_update(no_key=True, of=("self",))
        .select_related("from_account", "to_account")
        .filter(pk=transfer_id, kind=kind)
        .first()
    )
    if found is None:
        raise UnknownTransfer(f"There is no {kind.label.lower()} with the id {transfer_id}.")
    return found


def write_transfer(
    *,
    transfer_id: UUID,
    kind: TransferKind,
    payer: Account,
    payee: Account | None,
    amount: int,
    terms: Terms,
    reference: str = "",
    memo: str = "",
    actor: User | None = None,
    hold: Hold | None = None,
    position: int | None = None,
) -> Transfer:
    """Write a transfer between locked accounts: pending for a two-phase kind, else posted with its entries.

    The caller has locked the id and checked that the payer can pay; assertions check this again.
    """
    assert (payer.kind, payee.kind if payee else None) in FLOWS[kind], f"{kind}: {payer} -> {payee}"
    assert payer.kind in BELOW_ZERO or payer.available_microcredits >= amount > 0, (
        f"{payer} cannot pay {amount}"
    )
    is_pending = kind in TWO_PHASE
    transfer = Transfer.objects.create(
        id=transfer_id,
        kind=kind,
        state=TransferState.PENDING if is_pending else TransferState.POSTED,
        from_account=payer,
        to_account=payee,
        amount_microcredits=amount,
        posted_amount=None if is_pending else amount,
        resolved_at=None if is_pending else timezone.now(),
        terms=dict(terms),
        reference=reference,
        memo=memo,
        actor=actor,
        hold=hold,
        position=position,
    )
    if is_pending:
        payer.pending_microcredits += amount
    else:
        assert payee is not None
        _write_entries(transfer, payer, payee, amount)
    return transfer


def post_pending(transfer: Transfer, *, payer: Account, payee: Account, amount: int) -> None:
    """Post ``amount`` of a locked pending transfer (all of it, or less for a leg of a hold), and release the rest."""
    assert 0 < amount <= transfer.amount_microcredits
    _resolve(transfer, TransferState.POSTED, amount)
    fault_point("ledger.transfer_resolved")
    payer.pending_microcredits -= transfer.amount_microcredits
    _write_entries(transfer, payer, payee, amount)


def release_pending(
    transfer: Transfer, *, payer: Account, state: TransferState = TransferState.VOIDED
) -> None:
    """Resolve a locked pending transfer as voided or expired, without moving credits."""
    assert state in (TransferState.VOIDED, TransferState.EXPIRED)
    _resolve(transfer, state, None)
    payer.pending_microcredits -= transfer.amount_microcredits


def _resolve(transfer: Transfer, state: TransferState, posted: int | None) -> None:
    now = timezone.now()
    changed = Transfer.objects.filter(pk=transfer.pk, state=TransferState.PENDING).update(
        state=state, posted_amount=posted, resolved_at=now
    )
    if changed != 1:
        raise TransferResolved(f"The transfer {transfer.pk} is already resolved.")
    transfer.state, transfer.posted_amount, transfer.resolved_at = state, posted, now


def _write_entries(transfer: Transfer, payer: Account, payee: Account, amount: int) -> None:
    Entry.objects.bulk_create(
        [
            Entry(transfer=transfer, account=payer, amount=-amount),
            Entry(transfer=transfer, account=payee, amount=amount),
        ]
    )
    fault_point("ledger.entries_written")
    payer.posted_microcredits -= amount
    payee.posted_microcredits += amount
