"""Page of the price book, for maintainers: versions, drafts, publishing."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.gateway.prices.drafts import DraftCost, draft_cost
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import TERMS, current_prices, in_words, publish_price
from gainshare.web.forms.price_form import PriceForm, typed
from gainshare.web.paging import page_of
from gainshare.web.price_words import ITEMS
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 25


@signed_in
@require_http_methods(["GET", "POST"])
def prices(request: SignedInRequest) -> HttpResponse:
    """Page with every price version, and a form that shows what a draft would have cost, or publishes it."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can change prices. Ask a maintainer to give you that role.")
    form = PriceForm(request.POST) if request.method == "POST" else PriceForm(initial=_initial(request))
    draft: DraftCost | None = None
    if form.is_bound and form.is_valid():
        if "publish" in request.POST:
            if _publish(form, request):
                return redirect("prices")
        else:
            draft = draft_cost(model=form.cleaned_data["model"], table=form.table, now=timezone.now())
    now = timezone.now()
    page = page_of(
        request, PriceVersion.objects.select_related("actor").order_by("-effective_at", "-pk"), PER_PAGE
    )
    context = {
        "form": form,
        "draft": draft,
        "items": [(ITEMS.get(each.item, each.item), each) for each in draft.items] if draft else [],
        "rises": in_words(draft.rises) if draft else "",
        "page": page,
        "in_force": {version.pk for version in current_prices(now)},
        "now": now,
    }
    return render(request, "web/price_book.html", context, status=400 if form.errors else 200)


def _initial(request: SignedInRequest) -> dict[str, object]:
    """The form's first values: the price in force of the model that `?model=` names, else of the only one."""
    in_force = {version.model: version for version in current_prices(timezone.now())}
    wanted = request.GET.get("model") or (next(iter(in_force)) if len(in_force) == 1 else "")
    return typed(in_force[wanted]) if wanted in in_force else {}


def _publish(form: PriceForm, request: SignedInRequest) -> bool:
    """Publish the prices of a valid form. If refused: False, with the reason in the form."""
    data = form.cleaned_data
    terms = {name: getattr(form.table, name) for name in TERMS}
    try:
        version = publish_price(
            model=data["model"], effective_at=data["effective_at"], actor=request.user, **terms
        )
    except DomainError as error:
        form.add_error("effective_at" if error.code in TIMES else None, error.message)
        return False
    at = f"{version.effective_at:%-d %b %Y, %H:%M:%S} UTC"
    messages.success(request, f"The price of {version.model} was published. It takes effect at {at}.")
    return True


TIMES = ("rise_too_soon", "retroactive_price", "id_conflict")
