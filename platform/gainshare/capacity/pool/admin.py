"""The pool in the admin. Classes are changed here through the service that keeps every price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from gainshare.accounts.models import User
from gainshare.capacity.models import ClassPrice, DeviceClass, DeviceLoan
from gainshare.capacity.pool.classes import change_class, create_class

if TYPE_CHECKING:
    ClassAdminBase = admin.ModelAdmin[DeviceClass]
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ClassAdminBase = ModelAdmin = admin.ModelAdmin  # Django's own class takes no type argument when it runs


def may_change(user: User | AnonymousUser) -> bool:
    """Maintainers among the staff change classes; the others look."""
    return isinstance(user, User) and user.is_maintainer


@admin.register(DeviceClass)
class DeviceClassAdmin(ClassAdminBase):
    list_display = ["name", "price_microcredits_per_device_hour", "hardware", "max_nodes", "is_preemptible"]
    search_fields = ["name", "description"]

    def get_readonly_fields(self, request: HttpRequest, obj: DeviceClass | None = None) -> list[str]:
        return ["name"] if obj is not None else []

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may_change(request.user)

    def has_change_permission(self, request: HttpRequest, obj: DeviceClass | None = None) -> bool:
        return may_change(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: DeviceClass | None = None) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: DeviceClass, form: forms.ModelForm[Any], change: bool
    ) -> None:
        """Save through the service, so that the price's history is complete."""
        if not isinstance(request.user, User):
            raise PermissionDenied
        fields = {name: form.cleaned_data[name] for name in form.changed_data if name != "name"}
        if change:
            change_class(actor=request.user, name=obj.name, **fields)
        else:
            made = create_class(actor=request.user, name=obj.name, **fields)
            obj.pk = made.pk


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows; services change them."""

    list_select_related = True

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ClassPrice)
class ClassPriceAdmin(ReadOnlyAdmin):
    list_display = ["device_class", "price_microcredits_per_device_hour", "set_by", "set_at"]


@admin.register(DeviceLoan)
class DeviceLoanAdmin(ReadOnlyAdmin):
    list_display = [
        "host",
        "device",
        "state",
        "borrower",
        "offered_at",
        "taken_at",
        "returned_at",
        "end_reason",
    ]
    list_filter = ["state"]
