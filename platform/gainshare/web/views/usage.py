"""Pages of the user's requests to models, with their bills."""

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_GET

from gainshare.gateway.models import UsageRecord
from gainshare.ledger.price_book import current_prices
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@signed_in
@require_GET
def usage(request: SignedInRequest) -> HttpResponse:
    """Page of the user's requests, newest first."""
    records = UsageRecord.objects.filter(user=request.user)
    page = page_of(request, records, PER_PAGE)
    return render(request, "web/usage.html", {"page": page, "prices": current_prices(timezone.now())})


@signed_in
@require_GET
def usage_detail(request: SignedInRequest, request_id: UUID) -> HttpResponse:
    """Page of one request with tokens, times and bill; 404 for another user's request."""
    own = UsageRecord.objects.filter(user=request.user).select_related("price")
    record = get_object_or_404(own, pk=request_id)
    return render(request, "web/usage_detail.html", {"record": record, "engine": engine_times(record)})


def engine_times(record: UsageRecord) -> list[tuple[str, float]]:
    """Labels and values in milliseconds of the record's engine counters."""
    names = {
        "queued_ms": "Waiting in the queue",
        "prefill_ms": "Reading the prompt",
        "decode_ms": "Writing the answer",
        "device_ms": "Device time",
    }
    return [(label, record.engine[name]) for name, label in names.items() if name in record.engine]
