"""The treasury, for maintainers: where all credits are, issuing new ones, and every movement in and out."""

from dataclasses import dataclass

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.ledger.errors import IdConflict
from gainshare.ledger.kinds import AccountKind, TransferKind
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services import MAX_MICROCREDITS, fund_treasury, totals
from gainshare.web.formatting import format_credits
from gainshare.web.forms.account import FundForm
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
WORDS = {
    TransferKind.FUND: "Issued",
    TransferKind.ESCROW: "Into escrow",
    TransferKind.ESCROW_RETURN: "Back from escrow",
    TransferKind.GRANT: "Granted",
}
SENT_BEFORE = (
    "This form was sent before, with another amount. Nothing was moved now: see the movements below, and send it "
    "again if you want to issue these credits as well."
)


@dataclass(frozen=True, slots=True)
class TreasuryMove:
    """A transfer as the treasury sees it, with the user or the escrow at its other end.

    `bounty_id` is empty where the escrow is not a bounty's; the page makes a link of it.
    """

    transfer: Transfer
    what: str
    other: str
    bounty_id: str
    signed_microcredits: int


@signed_in
@require_http_methods(["GET", "POST"])
def treasury(request: SignedInRequest) -> HttpResponse:
    """Where all credits are, a form that issues new ones, and what went in and out, newest first."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only a maintainer looks after the treasury. Ask one to give you that role.")
    form = FundForm(request.POST if request.method == "POST" else None)
    issuable = MAX_MICROCREDITS - totals().issued
    if form.is_valid() and not form.must_ask(available=issuable) and fund(form, request.user):
        amount = form.cleaned_data["amount"]
        messages.success(
            request,
            f"{format_credits(amount)} credits were issued ({amount:,} micro-credits); they are in the treasury.",
        )
        return redirect("treasury")
    page = page_of(request, treasury_transfers(), PER_PAGE)
    context = {
        "form": form,
        "totals": totals(),
        "page": page,
        "movements": [treasury_move(transfer) for transfer in page.object_list],
    }
    return render(request, "web/treasury.html", context, status=400 if form.errors else 200)


def fund(form: FundForm, user: User) -> bool:
    """Issue what a valid form asks for. False, with the reason in the form, when that is refused."""
    data = form.cleaned_data
    try:
        fund_treasury(
            transfer_id=data["transfer_id"],
            amount_microcredits=data["amount"],
            memo=data["memo"],
            actor=user,
        )
    except IdConflict:
        refuse_resent(form, "transfer_id", SENT_BEFORE)
    except DomainError as error:
        form.add_error(None, error.message)
    return form.is_valid()


def treasury_transfers() -> QuerySet[Transfer]:
    """Every transfer from or to the treasury, newest first."""
    ours = Account.objects.filter(kind=AccountKind.TREASURY)
    return (
        Transfer.objects.filter(Q(from_account__in=ours) | Q(to_account__in=ours))
        .select_related("from_account__owner", "to_account__owner", "actor")
        .order_by("-created_at", "-pk")
    )


def treasury_move(transfer: Transfer) -> TreasuryMove:
    """`transfer` seen from the treasury: what left is negative, what arrived positive."""
    source, target = transfer.from_account, transfer.to_account
    assert target is not None, "what moves credits of the treasury has both ends"
    arrives = target.kind == AccountKind.TREASURY
    end = source if arrives else target
    other = end.owner.username if end.owner is not None else end.reference
    kind, _, subject = end.reference.partition(":")
    amount = transfer.posted_amount or 0
    return TreasuryMove(
        transfer=transfer,
        what=WORDS[TransferKind(transfer.kind)],
        other=other,
        bounty_id=subject if kind == "bounty" else "",
        signed_microcredits=amount if arrives else -amount,
    )
