"""A page to try models from: it asks as the person who is signed in, so it needs no key and holds none."""

from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from gainshare.ledger.price_book import current_prices
from gainshare.ledger.services import balance
from gainshare.web.formatting import format_credits
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@require_GET
def playground(request: SignedInRequest) -> HttpResponse:
    """The page; its script does the talking, with `gainshare.gateway.playground`."""
    return render(
        request,
        "web/playground.html",
        {"balance": balance(request.user), "prices": current_prices(timezone.now())},
    )


@signed_in
@never_cache
@require_GET
def playground_balance(request: SignedInRequest) -> HttpResponse:
    """What is left, in words, for the page's script; and whether a running request still holds some of it."""
    left = balance(request.user)
    return JsonResponse({"available": format_credits(left.available), "has_holds": left.held > 0})
