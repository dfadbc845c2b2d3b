"""Read-only Django admin of the ledger."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from gainshare.ledger.models import Account, Entry, Hold, PriceVersion, Reversal, Seal, Transfer


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shows rows; the database refuses any change as well."""

    list_select_related = True

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ["kind", "reference", "owner", "posted_microcredits", "pending_microcredits", "expires_at"]
    list_filter = ["kind", "source"]
    search_fields = ["reference", "owner__username"]


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "state", "from_account", "to_account", "amount_microcredits", "created_at"]
    list_filter = ["kind", "state"]
    search_fields = ["id", "reference"]


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ["id", "transfer", "account", "amount", "created_at"]
    search_fields = ["transfer__id"]


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ["id", "user", "amount", "settled", "state", "created_at", "expires_at"]
    list_filter = ["state"]
    search_fields = ["id", "reference", "user__username"]


@admin.register(Reversal)
class ReversalAdmin(ReadOnlyAdmin):
    list_display = ["id", "award", "from_escrow", "from_lot", "receivable", "created_at"]


@admin.register(PriceVersion)
class PriceVersionAdmin(ReadOnlyAdmin):
    list_display = ["model", "effective_at", "created_at", "cached_input", "fresh_input", "output"]
    list_filter = ["model"]


@admin.register(Seal)
class SealAdmin(ReadOnlyAdmin):
    list_display = ["id", "hash", "previous_hash", "sealed_at"]
    list_select_related = False
