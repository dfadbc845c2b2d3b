"""Permissions by scope of the API key and by role. A browser session has all scopes of its role."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from gainshare.accounts.models import ApiKey, Scope, User


def granted(request: Request, scope: str) -> bool:
    """Whether the caller may act under ``scope``: the key has it, or the session's role has it."""
    if not isinstance(request.user, User) or not request.user.is_active:
        return False
    if isinstance(request.auth, ApiKey):
        return request.auth.has_scope(scope)
    return scope in request.user.allowed_scopes


def HasScope(scope: str) -> type[BasePermission]:  # noqa: N802 - reads as the class it returns
    """A permission class: the caller is signed in and has ``scope``."""
    wanted = Scope(scope)

    class ScopePermission(BasePermission):
        message = f"This needs an API key with the scope {wanted.value}."

        def has_permission(self, request: Request, view: Any) -> bool:
            return granted(request, wanted.value)

    ScopePermission.__name__ = f"HasScope{wanted.name.title()}"
    return ScopePermission


class IsMaintainer(BasePermission):
    """The caller is a maintainer, and an API key has the scope maintain."""

    message = "Only maintainers may do this. An API key for it needs the scope maintain."

    def has_permission(self, request: Request, view: Any) -> bool:
        return granted(request, Scope.MAINTAIN.value)
