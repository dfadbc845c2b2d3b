"""ASGI middleware of the runner API: a caller without a runner token is refused before the request's body is read.

Evidence is the largest body that the site takes, and Django stores a whole body before a view can check its sender.
"""

import json
from collections.abc import Iterable
from typing import Any

from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated

from bounty.services.runners.registration import TOKEN_MARK, authenticate_runner
from gainshare.accounts.errors import error_body
from gainshare.gateway.database import in_database

PREFIX = "/api/v1/runner/"


def with_runner_door(site: Any) -> Any:
    """Wrap `site`: requests with a body below `PREFIX` pass with a valid runner token only."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX) and _has_body(scope["headers"]):
            refusal = await _refusal(scope["headers"])
            if refusal is not None:
                await _refuse(send, refusal)
                return
        await site(scope, receive, send)

    return application


def runner_token(authorization: bytes) -> str | None:
    """The runner token of an Authorization header, or None if it has none."""
    parts = authorization.split()
    if len(parts) != 2 or parts[0].lower() != b"bearer":
        return None
    token = parts[1].decode("latin-1")
    return token if token.startswith(TOKEN_MARK) else None


def unknown_token() -> AuthenticationFailed:
    """The refusal of a runner token that no active runner has."""
    return AuthenticationFailed("The runner token is unknown or retired.", code="invalid_token")


def _has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in headers
    )


async def _refusal(
    headers: Iterable[tuple[bytes, bytes]],
) -> AuthenticationFailed | NotAuthenticated | None:
    sent = [value for name, value in headers if name == b"authorization"]
    token = runner_token(sent[0]) if len(sent) == 1 else None
    if token is None:
        return NotAuthenticated()
    return None if await in_database(authenticate_runner, token) is not None else unknown_token()


async def _refuse(send: Any, error: AuthenticationFailed | NotAuthenticated) -> None:
    """Answer 401 and close the connection, because the body would have to be read otherwise."""
    body = json.dumps(error_body(str(error.get_codes()), str(error.detail))).encode()
    headers = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"www-authenticate": b"Bearer",
        b"connection": b"close",
    }
    await send({"type": "http.response.start", "status": 401, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})
