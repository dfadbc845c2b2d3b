"""Page of the treasury, for maintainers: totals, issuing credits, and movements."""

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
    "This form was already sent with another amount, so nothing was moved now. See the movements below. If "
    "you want to issue these credits as well, send the form again."
)


@dataclass(frozen=True, slots=True)
class TreasuryMove:
    """A transfer from the treasury's side, with the user or the escrow at its other end.

    `bounty_id` is empty if the escrow is not a bounty's; the page links it.
    """

    transfer: Transfer
    what: str
    other: str
    bounty_id: str
    signed_microcredits: int


@signed_in
@require_http_methods(["GET", "POST"])
def treasury(request: SignedInRequest) -> HttpResponse:
    """Page with the totals, a form that issues credits, and the treasury's movements, newest first."""
    if not request.user.is_maintainer:
        raise PermissionDenied(
            "Only maintainers can manage the treasury. Ask a maintainer to give you that role."
        )
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
    """Issue the credits of a valid form. If refused: False, with the reason in the form."""
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
    """Convert `transfer` to the treasury's view: outgoing amounts are negative, incoming ones positive."""
    source, target = transfer.from_account, transfer.to_account
    assert target is not None, "a transfer of the treasury has two accounts"
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
