"""Services that move credits. Each function is keyword-only, opens its own transaction, and may be repeated
with the same caller-made id. The same id with other content raises IdConflict.

Amounts are whole micro-credits (a credit is a million of them). The modules of this package implement them.
"""

from gainshare.ledger.services.awards import (
    book_award,
    release_reservation,
    reserve_award,
    reverse_award,
    vest_award,
)
from gainshare.ledger.services.escrow import (
    EscrowBalance,
    add_to_escrow,
    close_escrow,
    escrow_balance,
    escrow_balances,
    open_escrow,
)
from gainshare.ledger.services.grants import Balance, balance, expire_lots, grant_credits, lots_of
from gainshare.ledger.services.holds import expire_holds, open_hold, settle_hold, void_hold
from gainshare.ledger.services.posting import MAX_MICROCREDITS
from gainshare.ledger.services.royalties import book_royalty, vest_royalty, void_royalty
from gainshare.ledger.services.sealing import seal_entries
from gainshare.ledger.services.treasury import Totals, fund_treasury, totals

__all__ = [
    "MAX_MICROCREDITS",
    "Balance",
    "EscrowBalance",
    "Totals",
    "add_to_escrow",
    "balance",
    "book_award",
    "book_royalty",
    "close_escrow",
    "escrow_balance",
    "escrow_balances",
    "expire_holds",
    "expire_lots",
    "fund_treasury",
    "grant_credits",
    "lots_of",
    "open_escrow",
    "open_hold",
    "release_reservation",
    "reserve_award",
    "reverse_award",
    "seal_entries",
    "settle_hold",
    "totals",
    "vest_award",
    "vest_royalty",
    "void_hold",
    "void_royalty",
]
