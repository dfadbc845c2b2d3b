"""Pages of the user's API keys: make, show once, list, revoke."""

from django.conf import settings
from django.contrib import messages
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.accounts.models import ApiKey, Scope, User
from gainshare.accounts.services import draw_secret, order_api_key, revoke_api_key
from gainshare.ledger.price_book import current_prices
from gainshare.web.forms.account import KeyForm
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@signed_in
@never_cache
@require_http_methods(["GET", "POST"])
def keys(request: SignedInRequest) -> HttpResponse:
    """Page with the user's keys, and a form that makes a key and redirects to its page."""
    initial = {"scopes": [Scope.INFERENCE.value, Scope.READ.value]}
    form = KeyForm(request.POST if request.method == "POST" else None, user=request.user, initial=initial)
    if form.is_valid() and (prefix := order(form, request.user)):
        return redirect("key", prefix=prefix)
    page = page_of(request, keys_of(request.user), PER_PAGE)
    context = {"form": form, "rows": [(key, key_state(key)) for key in page.object_list], "page": page}
    return render(request, "web/keys.html", context, status=400 if form.errors else 200)


def order(form: KeyForm, user: User) -> str | None:
    """Make the key of a valid form and return its prefix. If refused: None, with the reason in the form."""
    data = form.cleaned_data

    def make() -> str:
        key = order_api_key(user=user, name=data["name"], scopes=data["scopes"], expires_at=form.expires_at())
        return key.prefix

    try:
        return form.made_once(user=user, what="key", make=make)
    except IdConflict:
        refuse_resent(form, "call_id")
    except DomainError as error:
        form.add_error(None, error.message)
    return None


@signed_in
@never_cache
@require_GET
def key_shown_once(request: SignedInRequest, prefix: str) -> HttpResponse:
    """Page of a new key, which shows its secret once."""
    key = get_object_or_404(ApiKey, user=request.user, prefix=prefix)
    raw = draw_secret(user=request.user, prefix=prefix)
    prices = current_prices(timezone.now())
    context = {
        "key": key,
        "raw": raw,
        "may_use_models": key.has_scope(Scope.INFERENCE),
        "model": prices[0].model if prices else "",
        "api_base": settings.PUBLIC_URL.rstrip("/") + "/v1",
    }
    return render(request, "web/key.html", context)


def keys_of(user: User) -> QuerySet[ApiKey]:
    """The user's keys, working ones first, then newest first."""
    # Without the second condition the expression would be null for keys that never expire.
    has_expired = Q(expires_at__lte=timezone.now(), expires_at__isnull=False)
    is_over = Q(revoked_at__isnull=False) | has_expired
    return (
        ApiKey.objects.filter(user=user)
        .annotate(is_over=ExpressionWrapper(is_over, BooleanField()))
        .order_by("is_over", "-created_at", "-pk")
    )


def key_state(key: ApiKey) -> str:
    """`active`, `expired`, `revoked`, or `not shown yet` for a key without a secret."""
    if key.revoked_at is not None:
        return "revoked"
    if key.refusal(timezone.now()) is not None:
        return "expired"
    return "active" if key.secret_hash else "not shown yet"


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
