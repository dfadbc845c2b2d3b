"""Page of the user's credits."""

from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from gainshare.accounts.models import User
from gainshare.ledger.kinds import AccountKind, HoldState
from gainshare.ledger.models import Hold, Transfer
from gainshare.ledger.services import balance, lots_of
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@dataclass(frozen=True, slots=True)
class Movement:
    """A transfer from the user's side: signed amounts (None if not applicable), and the request that it pays."""

    transfer: Transfer
    signed_microcredits: int | None
    pending_microcredits: int | None
    request_id: str


@signed_in
@require_GET
def credits_page(request: SignedInRequest) -> HttpResponse:
    """Page with balance, lots in the order in which they are spent, open holds, and movements, newest first."""
    page = page_of(request, transfers_of(request.user), PER_PAGE)
    lots = lots_of(request.user)
    context = {
        "balance": balance(request.user),
        "lots": lots[:PER_PAGE],
        "more_lots": max(0, lots.count() - PER_PAGE),
        "holds": Hold.objects.filter(user=request.user, state=HoldState.OPEN).order_by("-created_at"),
        "page": page,
        "movements": [movement(transfer, request.user) for transfer in page.object_list],
    }
    return render(request, "web/credits.html", context)


def transfers_of(user: User) -> QuerySet[Transfer]:
    """Every transfer from or to an account of the user's, newest first."""
    own = Q(from_account__owner=user) | Q(to_account__owner=user)
    return (
        Transfer.objects.filter(own)
        .select_related("from_account", "to_account")
        .order_by("-created_at", "-pk")
    )


def movement(transfer: Transfer, user: User) -> Movement:
    """Convert `transfer` to the user's view: outgoing amounts are negative, incoming ones positive."""
    leaves = (
        transfer.from_account.owner_id == user.pk and transfer.from_account.kind == AccountKind.WALLET_LOT
    )
    sign = -1 if leaves else 1
    posted = None if transfer.posted_amount is None else sign * transfer.posted_amount
    pending = sign * transfer.amount_microcredits if transfer.resolved_at is None else None
    kind, _, subject = transfer.reference.partition(":")
    return Movement(transfer, posted, pending, subject if kind == "request" else "")
