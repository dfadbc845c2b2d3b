"""Lengths of the requests that users send: what a canary draws its shapes from. Neither prompts nor accounts are told."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from gainshare.gateway.models import RequestStatus, UsageRecord

RECENT = timedelta(days=7)
MOST_REQUESTS = 20_000


def recent_lengths(model: str) -> list[tuple[int, int, int]]:
    """`(account, prompt tokens, answer's tokens)` of the latest complete answers of `model`, the newest first.

    At most MOST_REQUESTS of the last days. The account is the user's key; the caller weighs each account the same.
    """
    answered = UsageRecord.objects.filter(
        model=model,
        status=RequestStatus.COMPLETED,
        completion_tokens__gt=0,
        created_at__gte=timezone.now() - RECENT,
    )
    rows = answered.order_by("-created_at").values_list("user_id", "prompt_tokens", "completion_tokens")
    return list(rows[:MOST_REQUESTS])
