"""Authentication of REST requests by API key: ``Authorization: Bearer gs_…``.

Runner tokens (``gsr_…``) are ignored here; the runner API has its own class.
"""

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from gainshare.accounts.keys import MARK
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import InvalidKey, authenticate_key


class ApiKeyAuthentication(BaseAuthentication):
    """Authentication by API key: ``request.user`` is its owner, ``request.auth`` the :class:`ApiKey`."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        parts = get_authorization_header(request).split()
        if not parts or parts[0].lower() != b"bearer":
            return None
        if len(parts) != 2:
            raise AuthenticationFailed("Send the key as: Authorization: Bearer gs_…", code="invalid_key")
        token = parts[1].decode("latin-1")
        if token.startswith("gsr_"):
            return None
        if not token.startswith(MARK):
            raise AuthenticationFailed(
                "This is not an API key: a key begins with gs_. Check that you copied it whole.",
                code="invalid_key",
            )
        try:
            key = authenticate_key(token)
        except InvalidKey as error:
            raise AuthenticationFailed(error.reason, code=error.code) from None
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
