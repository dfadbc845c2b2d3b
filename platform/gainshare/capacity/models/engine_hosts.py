"""Hosts that an engine outside starts for scaling: each is an agent that a Ray cluster runs."""

from __future__ import annotations

from django.db import models

from gainshare.capacity.models.hosts import Host
from gainshare.capacity.models.served import ServedModel


class EngineHost(models.Model):
    """A host that scaling made for a served model. It exists from the decision to the engine's word that it is gone.

    ``started_at`` is when the engine took the order, ``gone_at`` when it no longer has it. While the host is revoked and
    ``gone_at`` is empty, the engine has still to be told.
    """

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="engine", primary_key=True)
    served = models.ForeignKey(ServedModel, on_delete=models.CASCADE, related_name="engine_hosts")
    started_at = models.DateTimeField(null=True)
    gone_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.host} for {self.served}"
