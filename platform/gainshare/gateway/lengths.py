"""Lengths of the requests that users send: for a canary's shapes and for scaling. No prompt is told."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from gainshare.capacity.lengths import Lengths
from gainshare.gateway.models import RequestStatus, UsageRecord

RECENT = timedelta(days=7)


def recent_lengths(model: str, most: int) -> list[Lengths]:
    """Those of the latest complete answers of ``model``, the newest first, ``most`` of the last days at most.

    The account is the user's key; who needs it for more than counting weighs each account the same.
    """
    answered = UsageRecord.objects.filter(
        model=model,
        status=RequestStatus.COMPLETED,
        completion_tokens__gt=0,
        created_at__gte=timezone.now() - RECENT,
    )
    rows = answered.order_by("-created_at").values_list(
        "user_id", "prompt_tokens", "cached_tokens", "completion_tokens"
    )
    return [Lengths(*row) for row in rows[:most]]
