"""Read-only Django admin of usage records."""

from django.contrib import admin
from django.http import HttpRequest

from gainshare.gateway.models import UsageRecord


@admin.register(UsageRecord)
class UsageRecordAdmin(admin.ModelAdmin):
    list_display = (
        "request_id", "user", "model", "status", "prompt_tokens", "completion_tokens", "charged_microcredits",
        "created_at", "settled_at",
    )  # fmt: skip
    list_filter = ("status", "model")
    search_fields = ("request_id", "user__username", "key_prefix")
    list_select_related = ("user",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False
