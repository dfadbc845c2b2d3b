"""Hosts: machines with a node agent, each with a token that a maintainer issued for it."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from gainshare.capacity.models.classes import DeviceClass


class Host(models.Model):
    """A machine whose agent starts and ends model nodes. Of its token only the digest is stored.

    ``agent`` is the present start of its agent, a fresh id each time: an older one that still speaks is refused.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.SlugField(max_length=60, unique=True)
    device_class = models.ForeignKey(DeviceClass, on_delete=models.PROTECT, related_name="hosts")
    token_prefix = models.CharField(max_length=16, unique=True)
    token_digest = models.CharField(max_length=64)
    is_exclusive = models.BooleanField(
        default=False, help_text="One device is serving or judging, never both; it may be lent to judging."
    )
    n_devices = models.PositiveSmallIntegerField(default=0, help_text="As its agent says; 0 before it spoke.")
    address = models.CharField(max_length=200, blank=True, help_text="Where its nodes' ports are reached.")
    allowed_address = models.CharField(
        max_length=200,
        blank=True,
        help_text="Address that a maintainer stated; empty: the one from which its agent spoke first.",
    )
    agent = models.UUIDField(null=True)
    beat = models.BigIntegerField(default=0, help_text="Number of the last heartbeat of this agent.")
    public_key = models.CharField(
        max_length=64,
        blank=True,
        help_text="Its agent's Ed25519 key (raw, base64), which signs canaries. Set once a token.",
    )
    version = models.CharField(max_length=64, blank=True, help_text="Hash of the installed model code.")
    last_seen_at = models.DateTimeField(null=True)
    heard_since = models.DateTimeField(null=True, help_text="Since when it is heard without a long gap.")
    leaves_at = models.DateTimeField(
        null=True, help_text="Notice of preemption: nothing new is started on it."
    )
    problem = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AgentStart(models.Model):
    """One start of a host's agent. An id starts once, so an older agent or a repeated message never takes over again."""

    id = models.UUIDField(primary_key=True)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="starts")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.host} {self.id}"
