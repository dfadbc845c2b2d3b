"""Page of grants, for maintainers."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.ledger.errors import IdConflict
from gainshare.ledger.kinds import TransferKind
from gainshare.ledger.models import Transfer
from gainshare.ledger.services import grant_credits, totals
from gainshare.ledger.services.grants import PURCHASE
from gainshare.web.formatting import format_credits, in_credits
from gainshare.web.forms.account import GrantForm
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
FIELD_OF = {"invalid_expiry": "expires_on", "payment_counted": "payment"}
SENT_BEFORE = (
    "This form was already sent for another grant, so nothing was moved now. See the grants below. If you "
    "want this grant as well, send the form again."
)


@signed_in
@require_http_methods(["GET", "POST"])
def grants(request: SignedInRequest) -> HttpResponse:
    """Page with a form that gives credits to a user, and every grant, newest first."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can grant credits. Ask a maintainer to give you that role.")
    treasury = totals().treasury
    form = GrantForm(request.POST if request.method == "POST" else None)
    if form.is_valid() and not form.must_ask(available=treasury) and grant(form, request.user):
        amount, user = form.cleaned_data["amount"], form.cleaned_data["username"]
        messages.success(
            request,
            f"{format_credits(amount)} credits were granted to {user.username} ({amount:,} micro-credits).",
        )
        return redirect("grants")
    made = Transfer.objects.filter(kind=TransferKind.GRANT).select_related("to_account__owner", "actor")
    page = page_of(request, made.order_by("-created_at", "-pk"), PER_PAGE)
    context = {"form": form, "page": page, "treasury": treasury}
    return render(request, "web/grants.html", context, status=400 if form.errors else 200)


def grant(form: GrantForm, actor: User) -> bool:
    """Make the grant of a valid form. If refused: False, with the reason in the form."""
    data = form.cleaned_data
    try:
        grant_credits(
            transfer_id=data["transfer_id"],
            user=data["username"],
            amount_microcredits=data["amount"],
            source=PURCHASE if data["payment"] else "grant",
            payment=data["payment"],
            expires_at=form.expires_at(),
            memo=data["memo"],
            actor=actor,
        )
    except IdConflict:
        refuse_resent(form, "transfer_id", SENT_BEFORE)
    except DomainError as error:
        form.add_error(FIELD_OF.get(error.code), in_credits(error.message))
    return form.is_valid()
