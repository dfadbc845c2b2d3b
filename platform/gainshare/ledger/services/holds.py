"""Holds: credits reserved before use, then settled or released.

A hold's legs are linked pending transfers from the user's lots to revenue. A hold is resolved once: the first
caller to lock its row decides, and later ones get an error.
"""

from datetime import datetime
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger.errors import AboveHold, HoldResolved, IdConflict, InsufficientCredits, UnknownHold
from gainshare.ledger.kinds import AccountKind, HoldState, TransferKind, TransferState
from gainshare.ledger.models import Account, Hold, Reversal
from gainshare.ledger.services.awards import repay
from gainshare.ledger.services.grants import lots_of, spending_order
from gainshare.ledger.services.posting import (
    derived_id,
    lock_accounts,
    not_negative,
    post_pending,
    receivable_of,
    release_pending,
    single_account,
    write_transfer,
)


def open_hold(
    *, hold_id: UUID, user: User, amount_microcredits: int, expires_at: datetime, reference: str
) -> Hold:
    """Reserve credits over the user's lots in the order in which they are spent, once per ``hold_id``.

    A repetition must name the same user, amount and reference; its ``expires_at`` is not compared, since callers
    compute it from the clock. Raises InsufficientCredits(available, needed), InvalidAmount, IdConflict.
    """
    amount = not_negative(amount_microcredits)
    now = timezone.now()
    hold = Hold(
        id=hold_id, user=user, amount=amount, created_at=now, expires_at=expires_at, reference=reference
    )
    # An error is raised after the block, when nothing was written. So the block needs no savepoint, and a
    # caller may catch the error and continue its transaction.
    with transaction.atomic(savepoint=False):
        lots = _spendable(user, now)
        available = sum(lot.available_microcredits for lot in lots)
        if available >= amount and _written(hold):
            _write_legs(hold, lots)
            return hold
        made = Hold.objects.filter(pk=hold_id).first()
    if made is None:
        raise InsufficientCredits(available, amount)
    if (made.user_id, made.amount, made.reference) != (user.pk, amount, reference):
        raise IdConflict(f"The id {hold_id} already belongs to another hold.")
    return made


def _spendable(user: User, now: datetime) -> list[Account]:
    """Lock and return the user's lots with available credits, in the order in which they are spent."""
    lots = lots_of(user).select_for_update(no_key=True).order_by("pk")  # the global lock order
    return sorted(
        (lot for lot in lots if lot.available_microcredits > 0 and not lot.has_expired(now)),
        key=spending_order,
    )


def _written(hold: Hold) -> bool:
    """Insert the hold's row; False if its id is taken. Waits for a concurrent insert of the same id.

    Raw SQL, because the ORM cannot distinguish a conflict from success.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_hold (id, user_id, amount, settled, state, reference, memo, created_at, expires_at) "
            "VALUES (%s, %s, %s, 0, %s, %s, '', %s, %s) ON CONFLICT (id) DO NOTHING",
            [
                hold.pk, hold.user_id, hold.amount, HoldState.OPEN, hold.reference, hold.created_at, hold.expires_at,
            ],
        )  # fmt: skip
        return int(cursor.rowcount) == 1


def _write_legs(hold: Hold, lots: list[Account]) -> None:
    """Reserve the hold's amount on locked ``lots``, which cover it, in their order."""
    revenue = single_account(AccountKind.REVENUE)
    missing = hold.amount
    for position, lot in enumerate(lots):
        if missing == 0:
            break
        part = min(missing, lot.available_microcredits)
        write_transfer(
            transfer_id=derived_id(hold.pk, f"leg:{position}"),
            kind=TransferKind.USAGE,
            payer=lot,
            payee=revenue,
            amount=part,
            terms={"hold": str(hold.pk)},
            reference=hold.reference,
            hold=hold,
            position=position,
        )
        missing -= part


def settle_hold(*, hold_id: UUID, amount_microcredits: int, memo: str = "") -> Hold:
    """Pay the used amount, at most the held one, and release the rest. Lots are spent in the hold's order.

    Settling again with the same amount changes nothing. Raises UnknownHold, AboveHold, InvalidAmount, HoldResolved
    (voided or expired), IdConflict (settled before with another amount).
    """
    amount = not_negative(amount_microcredits)
    with transaction.atomic():
        hold = _locked(hold_id)
        if hold.state == HoldState.SETTLED:
            if hold.settled != amount:
                raise IdConflict(f"The hold was already settled with {hold.settled} micro-credits.")
            return hold
        if hold.state != HoldState.OPEN:
            raise HoldResolved(hold.state)
        if amount > hold.amount:
            raise AboveHold(f"The hold has only {hold.amount} micro-credits, so {amount} cannot be settled.")
        _resolve(hold, HoldState.SETTLED, amount=amount, memo=memo)
    return hold


def void_hold(*, hold_id: UUID) -> Hold:
    """Release all of a hold. Repeating changes nothing. Raises UnknownHold, HoldResolved."""
    with transaction.atomic():
        hold = _locked(hold_id)
        if hold.state == HoldState.VOIDED:
            return hold
        if hold.state != HoldState.OPEN:
            raise HoldResolved(hold.state)
        _resolve(hold, HoldState.VOIDED)
    return hold


def expire_holds(*, now: datetime) -> int:
    """Release every open hold that has expired by ``now``, except those being resolved; return their number."""
    due = Hold.objects.filter(state=HoldState.OPEN, expires_at__lte=now).order_by("expires_at")
    return sum(_expire(hold_id) for hold_id in due.values_list("pk", flat=True))


def _expire(hold_id: UUID) -> bool:
    with transaction.atomic():
        hold = Hold.objects.select_for_update(skip_locked=True, no_key=True).filter(pk=hold_id).first()
        if hold is None or hold.state != HoldState.OPEN:
            return False
        _resolve(hold, HoldState.EXPIRED)
    return True


def _locked(hold_id: UUID) -> Hold:
    hold = Hold.objects.select_for_update(no_key=True).filter(pk=hold_id).first()
    if hold is None:
        raise UnknownHold(f"There is no hold with the id {hold_id}.")
    return hold


def _resolve(hold: Hold, state: HoldState, *, amount: int = 0, memo: str = "") -> None:
    """Resolve a locked open hold: pay ``amount`` from its legs in their order, release the rest."""
    hold.state, hold.settled, hold.memo, hold.resolved_at = state, amount, memo[:300], timezone.now()
    hold.save(update_fields=["state", "settled", "memo", "resolved_at"])
    legs = list(hold.legs.order_by("position"))
    lot_ids = [leg.from_account_id for leg in legs]
    receivable_id = receivable_of(hold.user_id).pk
    revenue_id = single_account(AccountKind.REVENUE).pk
    locked = lock_accounts([*lot_ids, receivable_id, *([revenue_id] if amount else [])])
    unpaid = amount
    for leg in legs:
        lot = locked[leg.from_account_id]
        part = min(unpaid, leg.amount_microcredits)
        if part > 0:
            post_pending(leg, payer=lot, payee=locked[revenue_id], amount=part)
            unpaid -= part
        else:
            expired = state == HoldState.EXPIRED
            release_pending(leg, payer=lot, state=TransferState.EXPIRED if expired else TransferState.VOIDED)
    assert unpaid == 0
    _collect_debt([locked[pk] for pk in lot_ids], locked[receivable_id], cause=hold.pk)


def _collect_debt(lots: list[Account], receivable: Account, *, cause: UUID) -> None:
    """Repay the debt of a reversed award from what a hold released into its lot."""
    if receivable.posted_microcredits == 0:
        return
    reversed_ids = set(
        Reversal.objects.filter(award__to_account__in=[lot.pk for lot in lots]).values_list(
            "award__to_account_id", flat=True
        )
    )
    for lot in lots:
        if lot.pk in reversed_ids:
            repay(lot, receivable, cause=cause)
