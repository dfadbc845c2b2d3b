"""Errors of the ledger, each with a stable code and an HTTP status. Importable without models."""

from gainshare.accounts import errors
from gainshare.accounts.errors import DomainError


class LedgerError(DomainError):
    """Base of the ledger's errors. When one is raised, nothing was moved."""

    code = "ledger_refused"
    status = 409


class InvalidAmount(LedgerError):
    """Not a whole, positive number of micro-credits that the ledger can hold."""

    code = "invalid_amount"
    status = 400


class IdConflict(errors.IdConflict, LedgerError):
    """The id that the caller made already belongs to another posting."""


class PaymentCounted(LedgerError):
    """Another purchase already gave the credits of this payment."""

    code = "payment_counted"

    def __init__(self, payment: str) -> None:
        super().__init__(
            f"The payment {payment!r} already gave credits. Check the grants; another payment needs another name."
        )


class InsufficientCredits(LedgerError):
    """The user's spendable lots do not cover the amount. Both figures are micro-credits."""

    code = "insufficient_credits"
    status = 402

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(f"This needs {needed} micro-credits and {available} are available.")
        self.available = available
        self.needed = needed


class InsufficientTreasury(LedgerError):
    """The treasury does not cover the amount; fund it first."""

    code = "insufficient_treasury"

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(
            f"The treasury has only {available} micro-credits, and this needs {needed} micro-credits. "
            "Fund the treasury first."
        )
        self.available = available
        self.needed = needed


class InsufficientRevenue(LedgerError):
    """Revenue does not cover the amount: more of it is reserved or was paid out than users spent."""

    code = "insufficient_revenue"

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(
            f"Revenue has only {available} micro-credits, and this needs {needed} micro-credits. Wait until users "
            "have spent more."
        )
        self.available = available
        self.needed = needed


class EscrowExhausted(LedgerError):
    """The unreserved rest of the escrow does not cover the amount."""

    code = "escrow_exhausted"

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(
            f"The escrow has only {available} micro-credits left, and this needs {needed} micro-credits."
        )
        self.available = available
        self.needed = needed


class UnknownEscrow(LedgerError):
    code = "unknown_escrow"
    status = 404


class EscrowExists(LedgerError):
    """Another transfer already opened an escrow of this reference; add to it instead."""

    code = "escrow_exists"


class EscrowClosed(LedgerError):
    code = "escrow_closed"


class UnknownTransfer(LedgerError):
    code = "unknown_transfer"
    status = 404


class TransferResolved(LedgerError):
    """The pending transfer was already resolved another way."""

    code = "transfer_resolved"


class AboveReservation(LedgerError):
    """An award above what was reserved for it."""

    code = "above_reservation"


class UnknownHold(LedgerError):
    code = "unknown_hold"
    status = 404


class HoldResolved(LedgerError):
    """The hold was already resolved another way; ``state`` says how."""

    code = "hold_resolved"

    def __init__(self, state: str) -> None:
        super().__init__(f"The hold is already {state}.")
        self.state = state


class AboveHold(LedgerError):
    """A settlement above the held amount."""

    code = "above_hold"


class Unpriced(LedgerError):
    """The model has no price in force, so it cannot be sold."""

    code = "unpriced"
    status = 503


class RetroactivePrice(LedgerError):
    """A later price version that would take effect in the past."""

    code = "retroactive_price"
    status = 400


class RiseTooSoon(LedgerError):
    """A price that can make a bill dearer and would take effect less than 24 hours after it is published."""

    code = "rise_too_soon"
    status = 400


class MaintainerOnly(LedgerError):
    """Issuing credits and publishing prices is for maintainers."""

    code = "not_allowed"
    status = 403
