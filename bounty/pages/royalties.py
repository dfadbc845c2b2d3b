"""Page of a contributor's awards and royalties, by gain and by day."""

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from bounty.limits import REVERSAL_WINDOW
from bounty.services.royalties.payments import gains_of, payments_of
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@signed_in
@require_GET
def royalties(request: SignedInRequest) -> HttpResponse:
    """Page with the user's gains that are served, and what each earned on each day."""
    page = page_of(request, payments_of(request.user), PER_PAGE)
    context = {
        "gains": gains_of(request.user, timezone.now()),
        "page": page,
        "window_days": REVERSAL_WINDOW.days,
    }
    return render(request, "bounty/royalties.html", context)
