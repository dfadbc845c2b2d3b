"""Users and keys in Django's admin. Keys can be viewed and revoked, but not made or changed."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest

from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import revoke_api_key

if TYPE_CHECKING:  # generic for the type checker only
    UserAdminBase = UserAdmin[User]
    ApiKeyAdminBase = admin.ModelAdmin[ApiKey]
else:
    UserAdminBase = UserAdmin
    ApiKeyAdminBase = admin.ModelAdmin


@admin.register(User)
class PlatformUserAdmin(UserAdminBase):
    list_display = ["username", "email", "role", "is_active", "date_joined"]
    list_filter = ["role", "is_active"]
    readonly_fields = ["role"]  # changed on the page People, which records who did it
    fieldsets = [*(UserAdmin.fieldsets or []), ("Gainshare", {"fields": ["role", "active_from"]})]


@admin.register(ApiKey)
class ApiKeyAdmin(ApiKeyAdminBase):
    list_display = [
        "prefix",
        "user",
        "name",
        "scopes",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    ]
    list_select_related = ["user"]
    search_fields = ["prefix", "user__username"]
    exclude = ["secret_hash"]
    actions = ["revoke"]

    @admin.action(description="Revoke the chosen keys and the keys made with them", permissions=["view"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset.select_related("user"):
            revoke_api_key(user=key.user, prefix=key.prefix)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False
