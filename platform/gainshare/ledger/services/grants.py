"""Grants of wallet lots, balances of users, and the expiry of lots."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger.errors import InsufficientTreasury, LedgerError
from gainshare.ledger.kinds import AccountKind, TransferKind, TransferState
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.posting import (
    Terms,
    lock_accounts,
    made_before,
    positive,
    single_account,
    write_transfer,
)

UNTRANSFERABLE_SOURCES = frozenset({"starter"})


@dataclass(frozen=True)
class Balance:
    """Balance of a user in micro-credits: spendable, held, unvested awards and royalties, and owed."""

    available: int
    held: int
    unvested: int
    owed: int


def grant_credits(
    *,
    transfer_id: UUID,
    user: User,
    amount_microcredits: int,
    source: str,
    priority: int = 100,
    expires_at: datetime | None = None,
    memo: str = "",
    actor: User | None = None,
) -> Account:
    """Give ``user`` a lot from the treasury, once per ``transfer_id``. Lots of low priority are spent first.

    Raises InsufficientTreasury, InvalidAmount, IdConflict, and LedgerError ``invalid_expiry``.
    """
    amount = positive(amount_microcredits)
    if not source or len(source) > 40:
        raise LedgerError("A grant needs a source of at most 40 characters.", code="invalid", status=400)
    terms: Terms = {
        "user": user.pk,
        "amount": amount,
        "source": source,
        "priority": priority,
        "expires_at": expires_at.astimezone(UTC).isoformat() if expires_at else None,
    }
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.GRANT, terms):
            assert made.to_account is not None
            return made.to_account
        if expires_at is not None and expires_at <= timezone.now():
            raise LedgerError(
                "The expiry is in the past, so the grant could not be spent. Choose a later time.",
                code="invalid_expiry",
                status=400,
            )
        treasury_id = single_account(AccountKind.TREASURY).pk
        treasury = lock_accounts([treasury_id])[treasury_id]
        if treasury.available_microcredits < amount:
            raise InsufficientTreasury(treasury.available_microcredits, amount)
        lot = Account.objects.create(
            kind=AccountKind.WALLET_LOT,
            owner=user,
            reference=f"grant:{transfer_id}",
            source=source,
            priority=priority,
            expires_at=expires_at,
            is_transferable=source not in UNTRANSFERABLE_SOURCES,
        )
        write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.GRANT,
            payer=treasury,
            payee=lot,
            amount=amount,
            terms=terms,
            memo=memo,
            actor=actor,
        )
    return lot


def lots_of(user: User) -> QuerySet[Account]:
    """The user's lots with credits, in the order in which they are spent."""
    return Account.objects.filter(
        owner=user, kind=AccountKind.WALLET_LOT, posted_microcredits__gt=0
    ).order_by("priority", F("expires_at").asc(nulls_last=True), "created_at", "pk")


def spending_order(lot: Account) -> tuple[int, bool, datetime, datetime, int]:
    """Sort key of locked lots, for the order of :func:`lots_of`."""
    return (lot.priority, lot.expires_at is None, lot.expires_at or lot.created_at, lot.created_at, lot.pk)


def balance(user: User) -> Balance:
    """Present balance of the user. An expired lot counts only as far as open holds reserve it."""
    now = timezone.now()
    fresh = Q(expires_at=None) | Q(expires_at__gt=now)
    lots = lots_of(user).aggregate(
        available=Sum(F("posted_microcredits") - F("pending_microcredits"), filter=fresh, default=0),
        held=Sum("pending_microcredits", default=0),
    )
    unvested = Transfer.objects.filter(
        to_account__owner=user,
        kind__in=[TransferKind.AWARD, TransferKind.ROYALTY],
        state=TransferState.PENDING,
    ).aggregate(total=Sum("amount_microcredits", default=0))
    owed = Account.objects.filter(owner=user, kind=AccountKind.RECEIVABLE).aggregate(
        total=Sum("posted_microcredits", default=0)
    )
    return Balance(
        available=int(lots["available"]),
        held=int(lots["held"]),
        unvested=int(unvested["total"]),
        owed=-int(owed["total"]),
    )


def expire_lots(*, now: datetime) -> int:
    """Move unused and unreserved credits of expired lots to breakage; return the number of lots.

    Credits that an open hold reserves stay until the hold is resolved; the next call takes the rest.
    """
    due = Account.objects.filter(
        kind=AccountKind.WALLET_LOT,
        expires_at__lte=now,
        posted_microcredits__gt=F("pending_microcredits"),
    ).order_by("pk")
    return sum(_expire_lot(lot_id) for lot_id in due.values_list("pk", flat=True))


def _expire_lot(lot_id: int) -> bool:
    with transaction.atomic():
        breakage_id = single_account(AccountKind.BREAKAGE).pk
        locked = lock_accounts([lot_id, breakage_id])
        lot = locked[lot_id]
        if lot.available_microcredits <= 0:
            return False
        # The lock makes this happen once per unused part, so no caller-made id is needed.
        write_transfer(
            transfer_id=uuid4(),
            kind=TransferKind.LOT_EXPIRY,
            payer=lot,
            payee=locked[breakage_id],
            amount=lot.available_microcredits,
            terms={"lot": lot.pk},
        )
    return True
