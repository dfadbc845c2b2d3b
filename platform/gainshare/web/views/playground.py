"""Page of the playground, which sends requests as the logged-in user, without a key."""

from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from gainshare.ledger.price_book import announced_prices, current_prices
from gainshare.ledger.services import balance
from gainshare.web.formatting import format_credits
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@require_GET
def playground(request: SignedInRequest) -> HttpResponse:
    """The page; its script calls `gainshare.gateway.playground`."""
    now = timezone.now()
    announced = announced_prices(now)
    prices = {"prices": [*current_prices(now), *announced], "announced": announced}
    return render(request, "web/playground.html", {"balance": balance(request.user), **prices})


@signed_in
@never_cache
@require_GET
def playground_balance(request: SignedInRequest) -> HttpResponse:
    """JSON for the page's script: the balance, and whether running requests hold credits."""
    left = balance(request.user)
    return JsonResponse({"available": format_credits(left.available), "has_holds": left.held > 0})
