"""A page to try models from: it streams through the public API, with a key like every other client."""

from datetime import timedelta

from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from gainshare.accounts.models import Scope
from gainshare.accounts.services import create_api_key
from gainshare.ledger.price_book import current_prices
from gainshare.ledger.services import balance
from gainshare.web.signed_in import SignedInRequest, signed_in

KEY_LIFE = timedelta(hours=1)


@signed_in
@require_GET
def playground(request: SignedInRequest) -> HttpResponse:
    """The page; its script does the talking."""
    return render(
        request,
        "web/playground.html",
        {"balance": balance(request.user), "prices": current_prices(timezone.now())},
    )


@signed_in
@never_cache
@require_POST
def playground_key(request: SignedInRequest) -> HttpResponse:
    """A key for this browser tab: only for using models, gone after an hour."""
    key, raw = create_api_key(
        user=request.user,
        name="Playground",
        scopes=[Scope.INFERENCE.value],
        expires_at=timezone.now() + KEY_LIFE,
    )
    return JsonResponse({"key": raw, "expires_at": key.expires_at})
