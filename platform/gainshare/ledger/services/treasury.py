"""Issuing of credits into the treasury, which is the only way to create credits."""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import Sum

from gainshare.accounts.models import User
from gainshare.ledger.errors import InvalidAmount, MaintainerOnly
from gainshare.ledger.kinds import AccountKind, TransferKind
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.posting import (
    MAX_MICROCREDITS,
    lock_accounts,
    made_before,
    positive,
    single_account,
    write_transfer,
)


@dataclass(frozen=True)
class Totals:
    """Totals of all accounts in micro-credits. ``issued + owed`` equals the sum of the others."""

    issued: int
    treasury: int
    escrow: int
    wallets: int
    revenue: int
    breakage: int
    owed: int


def fund_treasury(*, transfer_id: UUID, amount_microcredits: int, memo: str, actor: User | None) -> Transfer:
    """Issue credits into the treasury, once per ``transfer_id``. ``actor`` None is the platform itself.

    Raises MaintainerOnly, InvalidAmount (also above the most that may ever be issued), IdConflict.
    """
    amount = positive(amount_microcredits)
    require_maintainer(actor)
    terms = {"amount": amount}
    with transaction.atomic():
        if made := made_before(transfer_id, TransferKind.FUND, terms):
            return made
        issuance, treasury = single_account(AccountKind.ISSUANCE), single_account(AccountKind.TREASURY)
        locked = lock_accounts([issuance.pk, treasury.pk])
        if amount - locked[issuance.pk].posted_microcredits > MAX_MICROCREDITS:
            raise InvalidAmount(
                f"At most {MAX_MICROCREDITS} micro-credits can be issued in total. Issue less."
            )
        return write_transfer(
            transfer_id=transfer_id,
            kind=TransferKind.FUND,
            payer=locked[issuance.pk],
            payee=locked[treasury.pk],
            amount=amount,
            terms=terms,
            memo=memo,
            actor=actor,
        )


def require_maintainer(actor: User | None) -> None:
    """Raises MaintainerOnly unless ``actor`` is a maintainer, or None: the platform itself."""
    if actor is not None and not actor.is_maintainer:
        raise MaintainerOnly("Only maintainers may do this. Ask a maintainer to give you that role.")


def totals() -> Totals:
    """Present totals of all accounts."""
    rows = Account.objects.values_list("kind").annotate(total=Sum("posted_microcredits"))
    by_kind = {kind: int(total) for kind, total in rows}
    return Totals(
        issued=-by_kind.get(AccountKind.ISSUANCE, 0),
        treasury=by_kind.get(AccountKind.TREASURY, 0),
        escrow=by_kind.get(AccountKind.ESCROW, 0),
        wallets=by_kind.get(AccountKind.WALLET_LOT, 0),
        revenue=by_kind.get(AccountKind.REVENUE, 0),
        breakage=by_kind.get(AccountKind.BREAKAGE, 0),
        owed=-by_kind.get(AccountKind.RECEIVABLE, 0),
    )
