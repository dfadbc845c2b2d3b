"""The ledger's vocabulary: kinds and states, and which money may move between which kinds of account.

Pure: the database's triggers hold the same table of flows, and a test compares the two.
"""

from django.db import models


class AccountKind(models.TextChoices):
    """What an account stands for. Every account but issuance and receivable is never below zero."""

    ISSUANCE = "issuance", "Issuance"  # minus what was ever issued; only falls
    TREASURY = "treasury", "Treasury"  # issued, not yet given out
    ESCROW = "escrow", "Escrow"  # set aside for one purpose, such as a bounty
    WALLET_LOT = "wallet_lot", "Wallet lot"  # one grant or award of one user
    REVENUE = "revenue", "Revenue"  # credits that users spent
    BREAKAGE = "breakage", "Breakage"  # credits that expired unused
    RECEIVABLE = "receivable", "Receivable"  # minus what a user owes after a reversal


class TransferKind(models.TextChoices):
    """Why money moves."""

    FUND = "fund", "Fund"  # issuance -> treasury
    ESCROW = "escrow", "Escrow"  # treasury -> escrow
    ESCROW_RETURN = "escrow_return", "Escrow return"  # escrow -> treasury, what a closed escrow has left
    RESERVATION = "reservation", "Reservation"  # holds escrow back; always voided, never posted
    AWARD = "award", "Award"  # escrow -> lot; pending while unvested
    REPAYMENT = "repayment", "Repayment"  # lot -> receivable, what a user owed
    REVERSAL = "reversal", "Reversal"  # lot or receivable -> escrow, of a vested award
    GRANT = "grant", "Grant"  # treasury -> lot
    USAGE = "usage", "Usage"  # lot -> revenue; one leg of a hold
    LOT_EXPIRY = "lot_expiry", "Lot expiry"  # lot -> breakage, the unused part


class TransferState(models.TextChoices):
    """Where a transfer stands. It leaves ``pending`` once, and for good."""

    PENDING = "pending", "Pending"  # reserves the amount in the paying account
    POSTED = "posted", "Posted"  # has its two entries
    VOIDED = "voided", "Voided"  # called off; no entries
    EXPIRED = "expired", "Expired"  # its time ran out; no entries


class HoldState(models.TextChoices):
    """Where a hold stands. It leaves ``open`` once, and for good."""

    OPEN = "open", "Open"  # its amount is reserved over the user's lots
    SETTLED = "settled", "Settled"  # what was used is paid, the rest released
    VOIDED = "voided", "Voided"  # released
    EXPIRED = "expired", "Expired"  # released because no one settled it in time


SINGLETONS = (
    AccountKind.ISSUANCE,
    AccountKind.TREASURY,
    AccountKind.REVENUE,
    AccountKind.BREAKAGE,
)
"""Kinds of which there is one account."""

OWNED = (AccountKind.WALLET_LOT, AccountKind.RECEIVABLE)
"""Kinds that belong to a user."""

BELOW_ZERO = (AccountKind.ISSUANCE, AccountKind.RECEIVABLE)
"""Kinds whose balance is zero or below; nothing can be reserved on them."""

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
}
"""From which kind of account to which kind each kind of transfer moves."""
