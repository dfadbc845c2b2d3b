"""Tables of routing, shared by all web processes: seats of requests, what was measured, and what was seen before.

None of them holds a prompt, an answer, or a hash that could be computed without the site's secret key.
"""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models


class WebProcess(models.Model):
    """A web process that has requests. Its seats are freed when it was silent for `seats.LEASE_S`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.id)


class Seat(models.Model):
    """A request in flight, from its admission to its end. Without a node it waits in front of the nodes.

    `node` is the id of a `Node`, or the URL of a static one. It takes one of that node's slots.
    """

    request_id = models.UUIDField(primary_key=True)
    process = models.UUIDField(db_index=True)
    account = models.BigIntegerField(db_index=True)
    model = models.CharField(max_length=120)
    node = models.CharField(max_length=200, blank=True)
    device_class = models.CharField(max_length=40, blank=True)
    priority = models.SmallIntegerField(default=0)
    prompt_tokens = models.PositiveIntegerField()
    cached_tokens = models.PositiveIntegerField(default=0, help_text="Expected in the node's prefix cache.")
    expected_tokens = models.PositiveIntegerField(help_text="Output tokens expected.")
    queued_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, help_text="When it got its node.")
    first_token_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["node", "model"], name="seat_by_node_and_model")]

    def __str__(self) -> str:
        return f"{self.request_id} at {self.node or 'no node'}"


class NodeWindow(models.Model):
    """What the gateway measured of one node in one window of `rates.WINDOW_S`, summed over all web processes.

    Prefill counts the work until the first token (`estimates.work_tokens`: prompt tokens that were not expected in
    the cache, those of the requests before, and a constant), and the time until it came. Decode counts tokens after the first, and the time from the first to the last one.
    """

    node = models.CharField(max_length=200)
    model = models.CharField(max_length=120)
    device_class = models.CharField(max_length=40, blank=True)
    window_at = models.DateTimeField()
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    busy_ms = models.BigIntegerField(default=0, help_text="Sum of the times between sending and end.")
    prefill_tokens = models.BigIntegerField(default=0)
    prefill_ms = models.BigIntegerField(default=0)
    decode_tokens = models.BigIntegerField(default=0)
    decode_ms = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["node", "model", "window_at"], name="node_window_once"),
        ]
        indexes = [models.Index(fields=["window_at"], name="node_window_by_time")]

    def __str__(self) -> str:
        return f"{self.node} at {self.window_at}"


class Arrivals(models.Model):
    """Requests for one model in one step of `load.STEP_S`: those that arrived, that ended, and of these the late and slow ones."""

    model = models.CharField(max_length=120)
    step_at = models.DateTimeField()
    requests = models.BigIntegerField(default=0)
    ended = models.BigIntegerField(default=0, help_text="That kept or broke what is promised.")
    late = models.BigIntegerField(default=0, help_text="Whose first token came too late.")
    slow = models.BigIntegerField(default=0, help_text="Whose further tokens took too long.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "step_at"], name="arrivals_once")]
        indexes = [models.Index(fields=["step_at"], name="arrivals_by_time")]
        verbose_name_plural = "arrivals"

    def __str__(self) -> str:
        return f"{self.model} at {self.step_at}: {self.requests}"


class OutputHistory(models.Model):
    """Lengths of the answers to one key at one endpoint: `buckets[i]` counts those of less than 2**i tokens, not less than 2**(i-1)."""

    payer = models.CharField(max_length=40, help_text="The key's prefix; of the playground, the account.")
    endpoint = models.CharField(max_length=32)
    requests = models.BigIntegerField(default=0)
    tokens = models.BigIntegerField(default=0)
    buckets = ArrayField(models.BigIntegerField())
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["payer", "endpoint"], name="output_history_once")]

    def __str__(self) -> str:
        return f"{self.payer} at {self.endpoint}"


class CachedBlock(models.Model):
    """A salted digest of a prompt's beginning that a node has computed lately."""

    node = models.CharField(max_length=200)
    digest = models.BigIntegerField()
    used_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "digest"], name="cached_block_once")]
        indexes = [models.Index(fields=["used_at"], name="cached_block_by_time")]

    def __str__(self) -> str:
        return f"{self.digest} on {self.node}"
