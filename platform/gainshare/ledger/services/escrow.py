"""Escrow accounts, named by a reference such as ``bounty:<uuid>``.

A closed escrow takes no more money and no more reservations. Credits that its open reservations and unvested
awards release return to the treasury at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from gainshare.ledger.errors import EscrowClosed, EscrowExists, InsufficientTreasury, UnknownEscrow
from gainshare.ledger.kinds import AccountKind, TransferKind
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.posting import (
    Terms,
    derived_id,
    lock_accounts,
    made_before,
    positive,
    single_account,
    write_transfer,
)


@dataclass(frozen=True)
class EscrowBalance:
    """Micro-credits in an escrow: all, those reserved or awarded but unvested, and the rest."""

    posted: int
    reserved: int
    available: int


def open_escrow(*, transfer_id: UUID, reference: str, amount_microcredits: int) -> Account:
    """Open the escrow ``reference`` with credits from the treasury, once per ``transfer_id``.

    Raises EscrowExists if another transfer opened it, InsufficientTreasury, InvalidAmount, IdConflict.
    """
    return _pay_in(transfer_id, reference, positive(amount_microcredits), is_new=True)


def add_to_escrow(*, transfer_id: UUID, reference: str, amount_microcredits: int) -> Account:
    """Add credits from the treasury to an open escrow, once per ``transfer_id``.

    Raises UnknownEscrow, EscrowClosed, InsufficientTreasury, InvalidAmount, IdConflict.
    """
    return _pay_in(transfer_id, reference, positive(amount_microcredits), is_new=False)


def _pay_in(transfer_id: UUID, reference: str, amount: int, *, is_new: bool) -> Account:
    terms: Terms = {"escrow": reference, "amount": amount}
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.ESCROW, terms):
            assert made.to_account is not None
            return made.to_account
        escrow = _opened(reference) if is_new else find_escrow(reference)
        treasury = single_account(AccountKind.TREASURY)
        locked = lock_accounts([escrow.pk, treasury.pk])
        escrow, treasury = locked[escrow.pk], locked[treasury.pk]
        if escrow.closed_at is not None:
            raise EscrowClosed(f"The escrow {reference} is closed.")
        if treasury.available_microcredits < amount:
            raise InsufficientTreasury(treasury.available_microcredits, amount)
        write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.ESCROW,
            payer=treasury,
            payee=escrow,
            amount=amount,
            terms=terms,
            reference=reference,
        )
    return escrow


def _opened(reference: str) -> Account:
    if not reference or len(reference) > 200:
        raise UnknownEscrow("An escrow needs a reference of at most 200 characters.", status=400)
    # The database waits here for a concurrent opening of the same reference, and then inserts nothing.
    Account.objects.bulk_create(
        [Account(kind=AccountKind.ESCROW, reference=reference)], ignore_conflicts=True
    )
    escrow = find_escrow(reference)
    if Transfer.objects.filter(to_account=escrow, kind=TransferKind.ESCROW).exists():
        raise EscrowExists(f"The escrow {reference} already exists. Add to it instead.")
    return escrow


def find_escrow(reference: str) -> Account:
    """The escrow account, not locked. Raises UnknownEscrow."""
    escrow = Account.objects.filter(kind=AccountKind.ESCROW, reference=reference).first()
    if escrow is None:
        raise UnknownEscrow(f"There is no escrow {reference}.")
    return escrow


def close_escrow(*, transfer_id: UUID, reference: str) -> Transfer | None:
    """Close the escrow and return its unreserved rest to the treasury; None if there is no rest.

    Closing again changes nothing. Raises UnknownEscrow, IdConflict.
    """
    terms: Terms = {"escrow": reference}
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.ESCROW_RETURN, terms):
            return made
        escrow, treasury = lock_escrow(find_escrow(reference).pk)
        if escrow.closed_at is None:
            escrow.closed_at = timezone.now()
            Account.objects.filter(pk=escrow.pk, closed_at=None).update(closed_at=escrow.closed_at)
        if escrow.available_microcredits == 0:
            return None
        return write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.ESCROW_RETURN,
            payer=escrow,
            payee=treasury,
            amount=escrow.available_microcredits,
            terms=terms,
            reference=reference,
        )


def lock_escrow(escrow_id: int) -> tuple[Account, Account]:
    """Lock an escrow together with the treasury, to which a closed escrow's rest returns."""
    treasury_id = single_account(AccountKind.TREASURY).pk
    locked = lock_accounts([escrow_id, treasury_id])
    return locked[escrow_id], locked[treasury_id]


def return_rest_if_closed(escrow: Account, treasury: Account, *, cause: UUID) -> None:
    """Move credits that were released into a locked, closed escrow to the treasury."""
    if escrow.closed_at is not None and escrow.available_microcredits > 0:
        write_transfer(
            transfer_id=derived_id(cause, "escrow_return"),
            kind=TransferKind.ESCROW_RETURN,
            payer=escrow,
            payee=treasury,
            amount=escrow.available_microcredits,
            terms={"cause": str(cause)},
            reference=escrow.reference,
        )


def escrow_balance(reference: str) -> EscrowBalance:
    """What the escrow has now. Raises UnknownEscrow."""
    return _balance(find_escrow(reference))


def escrow_balances(references: Iterable[str]) -> dict[str, EscrowBalance]:
    """Reference -> what the escrow has now, for many escrows in one query; zeros for one that does not exist."""
    wanted = list(references)
    accounts = Account.objects.filter(kind=AccountKind.ESCROW, reference__in=wanted)
    return dict.fromkeys(wanted, EscrowBalance(0, 0, 0)) | {one.reference: _balance(one) for one in accounts}


def _balance(escrow: Account) -> EscrowBalance:
    return EscrowBalance(
        posted=escrow.posted_microcredits,
        reserved=escrow.pending_microcredits,
        available=escrow.available_microcredits,
    )
