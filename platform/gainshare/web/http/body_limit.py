"""An ASGI layer that bounds what the site reads of a request, whoever sends it.

Django takes a body in whole, on disk, before it looks at who sends it and what for. Model access has a bound of its
own.
"""

import json
from collections.abc import Mapping
from typing import Any

from gainshare.accounts.errors import error_body


class _TooLong(Exception):
    """More came than was announced, or nothing was announced."""


def with_body_limit(site: Any, limits: Mapping[str, int]) -> Any:
    """`site`, with bodies of at most so many bytes: ``limits`` by the beginning of the address, the longest counts."""
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
        except _TooLong:  # Django reads the body before it answers anything
            await _refuse(send, limit)

    return application


def _announced(scope: Mapping[str, Any]) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(length) for length in lengths if length.isdigit()), default=0)


async def _refuse(send: Any, limit: int) -> None:
    """413, and the end of the connection: what is still to come would have to be read else."""
    body = json.dumps(error_body("body_too_large", f"The body may have at most {limit} bytes here.")).encode()
    headers = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"connection": b"close",
    }
    await send({"type": "http.response.start", "status": 413, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})
