"""Deployments in the admin, to look at."""

from __future__ import annotations

from django.contrib import admin

from gainshare.capacity.models import Deployment
from gainshare.ledger.admin import ReadOnlyAdmin


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "model", "tree", "state", "lineage", "reason", "why"]
    list_filter = ["state", "model"]
