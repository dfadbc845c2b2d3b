"""One's API keys: make (shown once), list, revoke."""

from django.conf import settings
from django.contrib import messages
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import ApiKey, Scope, User
from gainshare.accounts.services import create_api_key, revoke_api_key
from gainshare.ledger.price_book import current_prices
from gainshare.web.forms import KeyForm
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@signed_in
@never_cache
@require_http_methods(["GET", "POST"])
def keys(request: SignedInRequest) -> HttpResponse:
    """The user's keys. A new key's text is in the answer to the POST that made it, and nowhere else."""
    key, raw = None, None
    initial = {"scopes": [Scope.INFERENCE.value, Scope.READ.value]}
    form = KeyForm(request.POST if request.method == "POST" else None, user=request.user, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            key, raw = create_api_key(
                user=request.user,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                expires_at=form.expires_at(),
            )
            form = KeyForm(user=request.user, initial=initial)
        except DomainError as error:
            form.add_error(None, error.message)
    prices = current_prices(timezone.now())
    page = page_of(request, keys_of(request.user), PER_PAGE)
    context = {
        "form": form,
        "rows": [(key, key_state(key)) for key in page.object_list],
        "page": page,
        "raw": raw,
        "may_use_models": raw is not None and key is not None and key.has_scope(Scope.INFERENCE),
        "model": prices[0].model if prices else "",
        "api_base": settings.PUBLIC_URL.rstrip("/") + "/v1",
    }
    return render(request, "web/keys.html", context, status=400 if form.errors else 200)


def keys_of(user: User) -> QuerySet[ApiKey]:
    """The user's keys, newest first, and those that work before those that do not any more."""
    # Without the second condition, keys that never expire would be neither over nor not: null sorts last.
    has_expired = Q(expires_at__lte=timezone.now(), expires_at__isnull=False)
    is_over = Q(revoked_at__isnull=False) | has_expired
    return (
        ApiKey.objects.filter(user=user)
        .annotate(is_over=ExpressionWrapper(is_over, BooleanField()))
        .order_by("is_over", "-created_at", "-pk")
    )


def key_state(key: ApiKey) -> str:
    """`active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.refusal(timezone.now()) is None else "expired"


@signed_in
@require_POST
def revoke(request: SignedInRequest, prefix: str) -> HttpResponse:
    """Revoke one key; it stops working at once."""
    try:
        key = revoke_api_key(user=request.user, prefix=prefix)
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The key “{key.name}” was revoked.")
    return redirect("keys")
