"""Kinds and states of the ledger, and the table of allowed flows between kinds of accounts.

The database's triggers have the same table of flows; a test compares the two.
"""

from django.db import models


class AccountKind(models.TextChoices):
    """Kind of an account. Only issuance and receivable can be below zero."""

    ISSUANCE = "issuance", "Issuance"  # minus all credits ever issued; only falls
    TREASURY = "treasury", "Treasury"  # issued, not yet given out
    ESCROW = "escrow", "Escrow"  # set aside for one purpose, such as a bounty
    WALLET_LOT = "wallet_lot", "Wallet lot"  # one grant or award of one user
    REVENUE = "revenue", "Revenue"  # credits that users spent
    BREAKAGE = "breakage", "Breakage"  # credits that expired unused
    RECEIVABLE = "receivable", "Receivable"  # minus a user's debt after a reversal


class TransferKind(models.TextChoices):
    """Kind of a transfer."""

    FUND = "fund", "Fund"  # issuance -> treasury
    ESCROW = "escrow", "Escrow"  # treasury -> escrow
    ESCROW_RETURN = "escrow_return", "Escrow return"  # escrow -> treasury, the rest of a closed escrow
    RESERVATION = "reservation", "Reservation"  # reserves escrow; always voided, never posted
    AWARD = "award", "Award"  # escrow -> lot; pending while unvested
    REPAYMENT = "repayment", "Repayment"  # lot -> receivable, a user's debt
    REVERSAL = "reversal", "Reversal"  # lot or receivable -> escrow, of a vested award
    GRANT = "grant", "Grant"  # treasury -> lot
    USAGE = "usage", "Usage"  # lot -> revenue; one leg of a hold
    LOT_EXPIRY = "lot_expiry", "Lot expiry"  # lot -> breakage, the unused part
    ROYALTY = "royalty", "Royalty"  # revenue -> lot, a share of what a gain saved; pending while unvested


class TransferState(models.TextChoices):
    """State of a transfer. It leaves ``pending`` once."""

    PENDING = "pending", "Pending"  # reserves the amount in the paying account
    POSTED = "posted", "Posted"  # has its two entries
    VOIDED = "voided", "Voided"  # cancelled; no entries
    EXPIRED = "expired", "Expired"  # expired; no entries


class HoldState(models.TextChoices):
    """State of a hold. It leaves ``open`` once."""

    OPEN = "open", "Open"  # its amount is reserved over the user's lots
    SETTLED = "settled", "Settled"  # the used part is paid, the rest released
    VOIDED = "voided", "Voided"  # released
    EXPIRED = "expired", "Expired"  # released, because it was not settled in time


OWNED = (AccountKind.WALLET_LOT, AccountKind.RECEIVABLE)
"""Kinds that belong to a user."""

BELOW_ZERO = (AccountKind.ISSUANCE, AccountKind.RECEIVABLE)
"""Kinds whose balance is at most zero; nothing can be reserved on them."""

FLOWS: dict[TransferKind, frozenset[tuple[AccountKind, AccountKind | None]]] = {
    TransferKind.FUND: frozenset({(AccountKind.ISSUANCE, AccountKind.TREASURY)}),
    TransferKind.ESCROW: frozenset({(AccountKind.TREASURY, AccountKind.ESCROW)}),
    TransferKind.ESCROW_RETURN: frozenset({(AccountKind.ESCROW, AccountKind.TREASURY)}),
    TransferKind.RESERVATION: frozenset({(AccountKind.ESCROW, None)}),
    TransferKind.AWARD: frozenset({(AccountKind.ESCROW, AccountKind.WALLET_LOT)}),
    TransferKind.REPAYMENT: frozenset({(AccountKind.WALLET_LOT, AccountKind.RECEIVABLE)}),
    TransferKind.REVERSAL: frozenset(
        {(AccountKind.WALLET_LOT, AccountKind.ESCROW), (AccountKind.RECEIVABLE, AccountKind.ESCROW)}
    ),
    TransferKind.GRANT: frozenset({(AccountKind.TREASURY, AccountKind.WALLET_LOT)}),
    TransferKind.USAGE: frozenset({(AccountKind.WALLET_LOT, AccountKind.REVENUE)}),
    TransferKind.LOT_EXPIRY: frozenset({(AccountKind.WALLET_LOT, AccountKind.BREAKAGE)}),
    TransferKind.ROYALTY: frozenset({(AccountKind.REVENUE, AccountKind.WALLET_LOT)}),
}
"""Allowed (from, to) kinds of accounts for each kind of transfer."""
