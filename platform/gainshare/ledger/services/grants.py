"""Grants of wallet lots, balances of users, and the expiry of lots."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger.errors import InsufficientTreasury, LedgerError, PaymentCounted
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
PURCHASE = "purchase"
NO_GRANTS = frozenset({"award", "royalty"})
"""Sources of lots that the ledger fills itself: royalties count awards, so no grant may call itself one."""

MAX_PAYMENT_CHARS = 60


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
    payment: str = "",
    priority: int = 100,
    expires_at: datetime | None = None,
    memo: str = "",
    actor: User | None = None,
) -> Account:
    """Give ``user`` a lot from the treasury, once per ``transfer_id``. Lots of low priority are spent first.

    A purchase names its ``payment`` (an invoice's number), and a payment gives credits once. Upper and lower case
    and repeated spaces make no other payment.

    Raises InsufficientTreasury, InvalidAmount, IdConflict, PaymentCounted, and LedgerError ``invalid_expiry``.
    """
    amount = positive(amount_microcredits)
    counted_as = _payment_of(source, payment)
    terms: Terms = {
        "user": user.pk,
        "amount": amount,
        "source": source,
        "priority": priority,
        "expires_at": expires_at.astimezone(UTC).isoformat() if expires_at else None,
        **({"payment": counted_as} if counted_as else {}),
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
        reference = f"{PURCHASE}:{counted_as}" if counted_as else f"grant:{transfer_id}"
        if Account.objects.filter(kind=AccountKind.WALLET_LOT, reference=reference).exists():
            raise PaymentCounted(payment)
        lot = Account.objects.create(
            kind=AccountKind.WALLET_LOT,
            owner=user,
            reference=reference,
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


def _payment_of(source: str, payment: str) -> str:
    """The payment of a purchase as it is counted; empty for other sources. Raises LedgerError."""
    counted_as = " ".join(payment.split()).casefold()
    if not source or len(source) > 40:
        message = "A grant needs a source of at most 40 characters."
    elif source in NO_GRANTS:
        message = (
            f"A grant cannot have the source {source!r}: only the ledger makes such lots. Choose another."
        )
    elif source == PURCHASE and not counted_as:
        message = "A purchase needs its payment, such as an invoice's number, so that it gives credits once."
    elif source != PURCHASE and counted_as:
        message = (
            f"Only a grant with the source {PURCHASE!r} has a payment. Leave it empty, or change the source."
        )
    elif len(payment) > MAX_PAYMENT_CHARS:
        message = f"A payment has at most {MAX_PAYMENT_CHARS} characters."
    else:
        return counted_as
    raise LedgerError(message, code="invalid", status=400)


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
