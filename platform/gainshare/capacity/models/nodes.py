"""Nodes: model servers that a host's agent runs, one a device."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from gainshare.capacity.models.hosts import Host


class NodeState(models.TextChoices):
    """State of a node: starting -> ready -> draining -> ended, each step once; any of them may go to ended."""

    STARTING = "starting", "Starting"  # ordered; its agent starts it, or has not heard of it yet
    READY = "ready", "Ready"  # it answers requests
    DRAINING = "draining", "Draining"  # it finishes what it has begun and gets nothing new
    ENDED = "ended", "Ended"  # its agent saw it end, or its host was lost


LIVE = (NodeState.STARTING, NodeState.READY, NodeState.DRAINING)


class Node(models.Model):
    """One model server on one device of a host. A device has two berths, each with at most one that has not ended.

    The second berth is for a handover: the successor starts beside the node that it replaces, which then drains.

    ``tree`` is the hash of the tree that it executes; empty for the installed one. ``load`` is what the agent last read
    from it (running, waiting, cache_use): shown, and used to choose among nodes, never for a charge.

    A node that ended without its agent, because its host was lost, keeps its device (``holds_device``) until the agent
    says that the device is free: the process may still run there.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="nodes")
    device = models.PositiveSmallIntegerField(help_text="Number of the host's device, from 0.")
    berth = models.PositiveSmallIntegerField(default=0, help_text="0 or 1.")
    model = models.CharField(max_length=120)
    tree = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=10, choices=NodeState.choices, default=NodeState.STARTING)
    reason = models.CharField(max_length=300, help_text="Why it was started.")
    end_reason = models.CharField(max_length=300, blank=True)
    url = models.CharField(
        max_length=200, blank=True, help_text="As its agent passes it on; empty before that."
    )
    price_microcredits_per_device_hour = models.BigIntegerField(
        default=0, help_text="Of its class, at its start."
    )
    load = models.JSONField(default=dict)
    load_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    told_at = models.DateTimeField(null=True, help_text="When its agent was told to start it.")
    ready_at = models.DateTimeField(null=True)
    hung_at = models.DateTimeField(
        null=True, help_text="Since when it answers nothing, as its agent says; nothing new is sent to it."
    )
    draining_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    holds_device = models.BooleanField(
        default=False, help_text="It has ended here, but its agent has not said that the device is free."
    )

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "device", "berth"],
                condition=Q(state__in=LIVE) | Q(holds_device=True),
                name="node_one_in_a_berth",
            ),
            models.CheckConstraint(condition=Q(berth__lte=1), name="node_berth_known"),
            models.CheckConstraint(
                condition=Q(holds_device=False) | Q(state=NodeState.ENDED), name="node_holds_after_its_end"
            ),
            models.CheckConstraint(condition=Q(state__in=NodeState.values), name="node_state_known"),
            models.CheckConstraint(
                condition=Q(state=NodeState.ENDED, ended_at__isnull=False)
                | (~Q(state=NodeState.ENDED) & Q(ended_at__isnull=True)),
                name="node_ended_has_time",
            ),
        ]
        indexes = [models.Index(fields=["model"], condition=Q(state__in=LIVE), name="node_live_by_model")]

    def __str__(self) -> str:
        return f"{self.model} on {self.host}:{self.device} ({self.state})"
