"""ASGI middleware that limits the size of request bodies.

Django stores a whole body on disk before it checks the sender. Model access has a separate limit.
"""

import json
from collections.abc import Mapping
from typing import Any

from gainshare.accounts.errors import error_body


class _TooLong(Exception):
    """The body is larger than the limit."""


def with_body_limit(site: Any, limits: Mapping[str, int]) -> Any:
    """Wrap `site` with a limit on bodies: ``limits`` in bytes by the longest matching prefix of the address."""
    by_length = sorted(limits.items(), key=lambda entry: -len(entry[0]))

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await site(scope, receive, send)
            return
        limit = next(most for prefix, most in by_length if scope["path"].startswith(prefix))
        if _announced(scope) > limit:
            await _refuse(send, limit)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLong
            return message

        try:
            await site(scope, counted, send)
        except _TooLong:  # Django reads the whole body before it answers
            await _refuse(send, limit)

    return application


def _announced(scope: Mapping[str, Any]) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(length) for length in lengths if length.isdigit()), default=0)


async def _refuse(send: Any, limit: int) -> None:
    """Answer 413 and close the connection, because the rest of the body would have to be read otherwise."""
    body = json.dumps(
        error_body("body_too_large", f"The body is too large: it may have at most {limit} bytes here.")
    ).encode()
    headers = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"connection": b"close",
    }
    await send({"type": "http.response.start", "status": 413, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})
