"""Usage records: one row per request to a model, with hold, usage, bill and outcome.

The row is written together with the hold and has its id, so that both exist after a crash. Prompts and
answers are not stored.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q


class RequestStatus(models.TextChoices):
    """State of a request. It leaves `running` once."""

    RUNNING = "running", "Running"  # credits are held, tokens may be sent
    COMPLETED = "completed", "Completed"  # the model ended its answer
    CANCELLED = "cancelled", "Cancelled"  # the client disconnected; what was generated until then is billed
    FAILED = "failed", "Failed"  # node, time or gateway failed; only delivered tokens are billed


# Key prefix of a request without a key, from the playground. Prefixes of keys are hexadecimal.
PLAYGROUND = "playground"


class UsageRecord(models.Model):
    """Metered usage and bill of one request. `request_id` is also the id of the ledger's hold."""

    request_id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="usage_records")
    key_prefix = models.CharField(max_length=16)  # of the API key that paid, or PLAYGROUND
    endpoint = models.CharField(max_length=32)
    model = models.CharField(max_length=120)
    is_stream = models.BooleanField()
    status = models.CharField(max_length=10, choices=RequestStatus.choices, default=RequestStatus.RUNNING)
    max_tokens = models.PositiveIntegerField(help_text="Tokens that the hold covers.")
    prompt_tokens = models.PositiveIntegerField(help_text="The tokeniser's count before the start.")
    cached_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    engine = models.JSONField(default=dict, help_text="The engine's own counters: queued_ms, prefill_ms, …")
    finish_reason = models.CharField(max_length=32, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    node = models.CharField(
        max_length=200, blank=True, help_text="That answered last; a static node by its URL."
    )
    device_class = models.CharField(max_length=40, blank=True, help_text="Of that node, at that time.")
    tree = models.CharField(
        max_length=64, blank=True, help_text="Hash of the tree that answered last; empty: it is not known."
    )
    counted_prompt_tokens = models.PositiveIntegerField(
        default=0, help_text="Prompt tokens that are billed: all, or 0 where nothing was delivered."
    )
    prompt_hour = models.PositiveSmallIntegerField(
        null=True, help_text="Hour of day (UTC) in which the first token arrived at the gateway."
    )
    output_hours = models.JSONField(
        default=list, help_text="[hour of day (UTC), answer, tokens], in the order of arrival at the gateway."
    )
    kv_bytes_per_token = models.PositiveIntegerField(
        default=0, help_text="Of the installed model's cache; 0 if it is not known."
    )
    kv_byte_ms = models.BigIntegerField(
        default=0, help_text="Cache memory by the gateway's counts and clock, in byte-milliseconds."
    )
    price = models.ForeignKey("ledger.PriceVersion", on_delete=models.PROTECT, related_name="+")
    hold_microcredits = models.BigIntegerField()
    bill_lines = models.JSONField(default=list)
    billed_microcredits = models.BigIntegerField(default=0, help_text="Sum of the bill's lines.")
    charged_microcredits = models.BigIntegerField(default=0, help_text="What the ledger took.")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(help_text="When it must have ended; its hold lapses later.")
    finished_at = models.DateTimeField(null=True)
    settled_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=RequestStatus.values), name="usage_status_known"),
            models.CheckConstraint(
                condition=Q(status=RequestStatus.RUNNING, finished_at__isnull=True)
                | (~Q(status=RequestStatus.RUNNING) & Q(finished_at__isnull=False)),
                name="usage_finished_has_time",
            ),
            models.CheckConstraint(
                condition=Q(settled_at__isnull=True) | Q(finished_at__isnull=False),
                name="usage_settled_after_finish",
            ),
            models.CheckConstraint(
                condition=Q(charged_microcredits__gte=0, charged_microcredits__lte=F("billed_microcredits"))
                & Q(charged_microcredits__lte=F("hold_microcredits")),
                name="usage_charges_within_bill_and_hold",
            ),
            models.CheckConstraint(
                condition=Q(cached_tokens__lte=F("prompt_tokens")), name="usage_cached_within_prompt"
            ),
            models.CheckConstraint(
                condition=Q(counted_prompt_tokens=0) | Q(counted_prompt_tokens=F("prompt_tokens")),
                name="usage_prompt_counted_whole_or_not",
            ),
            models.CheckConstraint(
                condition=(Q(prompt_hour__isnull=True) | Q(prompt_hour__lte=23)) & Q(kv_byte_ms__gte=0),
                name="usage_hour_and_memory_in_range",
            ),
            models.CheckConstraint(
                condition=Q(completion_tokens__lte=F("max_tokens")), name="usage_tokens_within_hold"
            ),
        ]
        indexes = [
            models.Index(fields=["user", "-created_at"], name="usage_by_user"),
            models.Index(
                fields=["model", "-created_at"],
                condition=Q(status=RequestStatus.COMPLETED),
                name="usage_answered_by_model",
            ),
            models.Index(fields=["expires_at"], condition=Q(settled_at__isnull=True), name="usage_unsettled"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} ({self.status})"

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def is_from_playground(self) -> bool:
        """Whether it came from the site's playground, without a key."""
        return self.key_prefix == PLAYGROUND

    @property
    def fresh_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens
