"""Pages of the user's requests to models, with their bills."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.prices.comparisons import comparison_of
from gainshare.ledger.price_book import announced_prices, current_prices
from gainshare.web.paging import page_of
from gainshare.web.price_words import (
    bill_row,
    device_times,
    format_gb_seconds,
    format_to_the_millisecond,
    gain_in_words,
    hours_in_words,
)
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
BEING_SETTLED = "being_settled"


@signed_in
@require_GET
def usage(request: SignedInRequest) -> HttpResponse:
    """Page of the user's requests, newest first."""
    records = UsageRecord.objects.filter(user=request.user)
    page = page_of(request, records, PER_PAGE)
    rows = [(record, state_of(record)) for record in page.object_list]
    now = timezone.now()
    announced = announced_prices(now)
    prices = {"prices": [*current_prices(now), *announced], "announced": announced}
    return render(request, "web/usage.html", {"page": page, "rows": rows, **prices})


@signed_in
@require_GET
def usage_detail(request: SignedInRequest, request_id: UUID) -> HttpResponse:
    """Page of one request with tokens, times and bill; 404 for another user's request."""
    record = own_record(request, request_id)
    compared = comparison_of(record)
    context = {
        "record": record,
        "state": state_of(record),
        "compared": compared,
        "gains": [(gain, gain_in_words(gain)) for gain in compared.gains],
        "bill": [bill_row(line) for line in record.bill_lines],
        "times": times_of(record, timezone.now()),
        "hours": hours_in_words(record.prompt_hour, record.output_hours),
        "memory": format_gb_seconds(record.kv_byte_ms),
    }
    return render(request, "web/usage_detail.html", context)


@signed_in
@require_GET
@never_cache
def usage_live(request: SignedInRequest, request_id: UUID) -> HttpResponse:
    """JSON for the live view of a request that is not settled yet: its state, tokens and times."""
    record = own_record(request, request_id)
    times = times_of(record, timezone.now())
    return JsonResponse({"state": state_of(record), "tokens": record.completion_tokens, "times": times})


def state_of(record: UsageRecord) -> str:
    """Its status; `being_settled` from its end until the ledger has taken its charge."""
    if record.finished_at is not None and record.settled_at is None:
        return BEING_SETTLED
    return record.status


def own_record(request: SignedInRequest, request_id: UUID) -> UsageRecord:
    """The user's request; 404 for another user's."""
    own = UsageRecord.objects.filter(user=request.user).select_related("price")
    return get_object_or_404(own, pk=request_id)


def times_of(record: UsageRecord, now: datetime) -> list[tuple[str, str]]:
    """Labels and times of the engine, and how long the request took or runs, to the millisecond."""
    engine: dict[str, Any] = record.engine
    passed = (record.finished_at or now) - record.created_at
    is_running = record.status == RequestStatus.RUNNING
    whole = "Running for" if is_running else "From admission to the end"
    return [
        *device_times(engine),
        (whole, format_to_the_millisecond(max(0.0, passed.total_seconds()) * 1000)),
    ]
