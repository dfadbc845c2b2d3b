"""Awards: reserve from an escrow, book as unvested, vest into a wallet lot, or reverse.

An unvested award is a pending transfer: the escrow still has the money, no one can spend it.
"""

from uuid import UUID

from django.db import transaction

from gainshare.accounts.models import User
from gainshare.accounts.once import claim
from gainshare.ledger.errors import (
    AboveReservation,
    EscrowClosed,
    EscrowExhausted,
    IdConflict,
    TransferResolved,
)
from gainshare.ledger.kinds import AccountKind, TransferKind, TransferState
from gainshare.ledger.models import Account, Reversal, Transfer
from gainshare.ledger.services.escrow import find_escrow, lock_escrow, return_rest_if_closed
from gainshare.ledger.services.posting import (
    Terms,
    derived_id,
    lock_accounts,
    lock_transfer,
    made_before,
    positive,
    post_pending,
    receivable_of,
    release_pending,
    single_account,
    write_transfer,
)

AWARD_PRIORITY = 100


def reserve_award(
    *, transfer_id: UUID, escrow_reference: str, amount_microcredits: int, reference: str
) -> Transfer:
    """Reserve escrow for an award that is not decided yet, once per ``transfer_id``.

    Raises UnknownEscrow, EscrowClosed, EscrowExhausted (with what is available), InvalidAmount, IdConflict.
    Repeating the call after a release returns the voided transfer; check its state.
    """
    amount = positive(amount_microcredits)
    terms: Terms = {"escrow": escrow_reference, "amount": amount, "reference": reference}
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.RESERVATION, terms):
            return made
        escrow_id = find_escrow(escrow_reference).pk
        escrow = lock_accounts([escrow_id])[escrow_id]
        if escrow.closed_at is not None:
            raise EscrowClosed(f"The escrow {escrow_reference} is closed.")
        if escrow.available_microcredits < amount:
            raise EscrowExhausted(escrow.available_microcredits, amount)
        return write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.RESERVATION,
            payer=escrow,
            payee=None,
            amount=amount,
            terms=terms,
            reference=reference,
        )


def release_reservation(*, transfer_id: UUID) -> Transfer:
    """Return a reservation to its escrow. Repeating changes nothing. Raises UnknownTransfer."""
    with transaction.atomic():
        reservation = lock_transfer(transfer_id, TransferKind.RESERVATION)
        if reservation.state == TransferState.PENDING:
            escrow, treasury = lock_escrow(reservation.from_account_id)
            release_pending(reservation, payer=escrow)
            return_rest_if_closed(escrow, treasury, cause=reservation.pk)
    return reservation


def book_award(
    *, transfer_id: UUID, reservation_id: UUID, user: User, amount_microcredits: int, reference: str
) -> Transfer:
    """Turn a reservation into an unvested award of at most its amount, in one step, once per ``transfer_id``.

    The rest of the reservation returns to the escrow. Raises UnknownTransfer, TransferResolved (the
    reservation was released or used), AboveReservation, InvalidAmount, IdConflict.
    """
    amount = positive(amount_microcredits)
    terms: Terms = {
        "reservation": str(reservation_id),
        "user": user.pk,
        "amount": amount,
        "reference": reference,
    }
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.AWARD, terms):
            return made
        reservation = lock_transfer(reservation_id, TransferKind.RESERVATION)
        if reservation.state != TransferState.PENDING:
            raise TransferResolved("The reservation was already released or used.")
        if amount > reservation.amount_microcredits:
            raise AboveReservation(
                f"The award is {amount} micro-credits and {reservation.amount_microcredits} are reserved."
            )
        escrow, treasury = lock_escrow(reservation.from_account_id)
        release_pending(reservation, payer=escrow)
        lot = Account.objects.create(
            kind=AccountKind.WALLET_LOT,
            owner=user,
            reference=f"award:{transfer_id}",
            source="award",
            priority=AWARD_PRIORITY,
            is_transferable=True,
        )
        award = write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.AWARD,
            payer=escrow,
            payee=lot,
            amount=amount,
            terms=terms,
            reference=reference,
        )
        return_rest_if_closed(escrow, treasury, cause=reservation.pk)
    return award


def vest_award(*, transfer_id: UUID) -> Account:
    """Make an award spendable as a new wallet lot; a debt of the user is repaid from it first.

    Repeating changes nothing. Raises UnknownTransfer, TransferResolved (the award was reversed).
    """
    with transaction.atomic():
        award = lock_transfer(transfer_id, TransferKind.AWARD)
        lot = award.to_account
        assert lot is not None and lot.owner_id is not None
        if award.state == TransferState.POSTED:
            return Account.objects.get(pk=lot.pk)
        if award.state != TransferState.PENDING:
            raise TransferResolved("The award was reversed and cannot vest.")
        receivable_id = receivable_of(lot.owner_id).pk
        locked = lock_accounts([award.from_account_id, lot.pk, receivable_id])
        lot, receivable = locked[lot.pk], locked[receivable_id]
        post_pending(award, payer=locked[award.from_account_id], payee=lot, amount=award.amount_microcredits)
        repay(lot, receivable, cause=award.pk)
    return lot


def repay(lot: Account, receivable: Account, *, cause: UUID) -> int:
    """Move available credits of a locked lot to its owner's locked receivable, at most the debt."""
    amount = min(lot.available_microcredits, -receivable.posted_microcredits)
    if amount > 0:
        write_transfer(
            transfer_id=derived_id(cause, f"repayment:{lot.pk}"),
            kind=TransferKind.REPAYMENT,
            payer=lot,
            payee=receivable,
            amount=amount,
            terms={"cause": str(cause), "lot": lot.pk},
        )
    return amount


def reverse_award(*, transfer_id: UUID, reversal_id: UUID, reason: str) -> Reversal:
    """Reverse an award, once: void it while unvested; else take what its lot has left, and book the rest as a debt.

    The escrow is refilled at once. The user's debt is repaid by later awards, and by what an open hold on the
    lot releases. Raises UnknownTransfer, TransferResolved (reversed before under another id), IdConflict (the
    id belongs to another reversal).
    """
    with transaction.atomic():
        claim(reversal_id)
        award = lock_transfer(transfer_id, TransferKind.AWARD)
        made = Reversal.objects.filter(pk=reversal_id).first()
        if made is not None:
            if made.award_id != award.pk:
                raise IdConflict(f"The id {reversal_id} already belongs to the reversal of another award.")
            return made
        if award.state == TransferState.PENDING:
            escrow, treasury = lock_escrow(award.from_account_id)
            release_pending(award, payer=escrow)
            return_rest_if_closed(escrow, treasury, cause=reversal_id)
            from_escrow, from_lot, receivable = award.amount_microcredits, 0, 0
        elif award.state == TransferState.POSTED and not Reversal.objects.filter(award=award).exists():
            from_escrow = 0
            from_lot, receivable = _take_back(award, reversal_id)
        else:
            raise TransferResolved("The award was already reversed.")
        return Reversal.objects.create(
            id=reversal_id,
            award=award,
            from_escrow=from_escrow,
            from_lot=from_lot,
            receivable=receivable,
            reason=reason[:300],
        )


def _take_back(award: Transfer, reversal_id: UUID) -> tuple[int, int]:
    """Refill the escrow of a vested award; return the amounts from its lot and as a debt."""
    lot = award.to_account
    assert lot is not None and lot.owner_id is not None
    receivable_id, treasury_id = receivable_of(lot.owner_id).pk, single_account(AccountKind.TREASURY).pk
    locked = lock_accounts([award.from_account_id, lot.pk, receivable_id, treasury_id])
    escrow, lot = locked[award.from_account_id], locked[lot.pk]
    from_lot = min(lot.available_microcredits, award.amount_microcredits)
    debt = award.amount_microcredits - from_lot
    for payer, amount in ((lot, from_lot), (locked[receivable_id], debt)):
        if amount > 0:
            write_transfer(
                transfer_id=derived_id(reversal_id, payer.kind),
                kind=TransferKind.REVERSAL,
                payer=payer,
                payee=escrow,
                amount=amount,
                terms={"reversal": str(reversal_id)},
                reference=award.reference,
            )
    return_rest_if_closed(escrow, locked[treasury_id], cause=reversal_id)
    return from_lot, debt
