"""Scaling's tables in the admin, to look at. Served models are changed through REST or `gainshare scale`."""

from __future__ import annotations

from django.contrib import admin

from gainshare.capacity.models import Decision, EngineHost, ScalingState, ServedModel
from gainshare.ledger.admin import ReadOnlyAdmin


@admin.register(ServedModel)
class ServedModelAdmin(ReadOnlyAdmin):
    list_display = ["name", "policy", "is_automatic", "fixed_nodes", "slots", "actuator"]
    list_filter = ["policy", "actuator"]


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "served", "policy", "reason", "is_change"]
    list_filter = ["policy", "is_change"]


@admin.register(ScalingState)
class ScalingStateAdmin(ReadOnlyAdmin):
    list_display = ["served", "policy", "reason", "problem", "failure", "engine_failure", "passed_at"]


@admin.register(EngineHost)
class EngineHostAdmin(ReadOnlyAdmin):
    list_display = ["host", "served", "started_at", "gone_at"]
