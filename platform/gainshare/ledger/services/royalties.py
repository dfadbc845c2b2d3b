"""Royalties: shares of what a gain saved, from revenue into a lot of the contributor's.

A royalty is booked as unvested: a pending transfer that reserves revenue, which no one can spend. It vests into its
lot after the window in which its gain can be reversed, or is voided and stays in revenue.
"""

from uuid import UUID

from django.db import transaction

from gainshare.accounts.models import User
from gainshare.ledger.errors import InsufficientRevenue, TransferResolved
from gainshare.ledger.kinds import AccountKind, TransferKind, TransferState
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.awards import AWARD_PRIORITY, repay
from gainshare.ledger.services.posting import (
    Terms,
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

ROYALTY = "royalty"
"""Source of a royalty's lot."""


def book_royalty(
    *, transfer_id: UUID, user: User, amount_microcredits: int, reference: str, memo: str = ""
) -> Transfer:
    """Reserve an unvested royalty in revenue, once per ``transfer_id``.

    Raises InsufficientRevenue, InvalidAmount, IdConflict. Repeating the call after it was voided returns the voided one.
    """
    amount = positive(amount_microcredits)
    terms: Terms = {"user": user.pk, "amount": amount, "reference": reference}
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.ROYALTY, terms):
            return made
        revenue_id = single_account(AccountKind.REVENUE).pk
        revenue = lock_accounts([revenue_id])[revenue_id]
        if revenue.available_microcredits < amount:
            raise InsufficientRevenue(revenue.available_microcredits, amount)
        lot = Account.objects.create(
            kind=AccountKind.WALLET_LOT,
            owner=user,
            reference=f"royalty:{transfer_id}",
            source=ROYALTY,
            priority=AWARD_PRIORITY,
            is_transferable=True,
        )
        return write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.ROYALTY,
            payer=revenue,
            payee=lot,
            amount=amount,
            terms=terms,
            reference=reference,
            memo=memo,
        )


def vest_royalty(*, transfer_id: UUID) -> Account:
    """Make a royalty spendable; a debt of the user is repaid from it first. Repeating changes nothing.

    Raises UnknownTransfer, TransferResolved (it was voided).
    """
    with transaction.atomic():
        royalty = lock_transfer(transfer_id, TransferKind.ROYALTY)
        lot = royalty.to_account
        assert lot is not None and lot.owner_id is not None
        if royalty.state == TransferState.POSTED:
            return Account.objects.get(pk=lot.pk)
        if royalty.state != TransferState.PENDING:
            raise TransferResolved("The royalty was voided and cannot vest.")
        receivable_id = receivable_of(lot.owner_id).pk
        locked = lock_accounts([royalty.from_account_id, lot.pk, receivable_id])
        lot = locked[lot.pk]
        post_pending(
            royalty, payer=locked[royalty.from_account_id], payee=lot, amount=royalty.amount_microcredits
        )
        repay(lot, locked[receivable_id], cause=royalty.pk)
    return lot


def void_royalty(*, transfer_id: UUID) -> Transfer:
    """Return an unvested royalty to revenue. Repeating changes nothing.

    Raises UnknownTransfer, TransferResolved (it has vested).
    """
    with transaction.atomic():
        royalty = lock_transfer(transfer_id, TransferKind.ROYALTY)
        if royalty.state == TransferState.POSTED:
            raise TransferResolved("The royalty has vested and cannot be voided.")
        if royalty.state == TransferState.PENDING:
            revenue = lock_accounts([royalty.from_account_id])[royalty.from_account_id]
            release_pending(royalty, payer=revenue)
    return royalty
