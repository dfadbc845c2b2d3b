"""ASGI handler for /v1/ that skips the site's middleware.

Requests with a key need no sessions, CSRF tokens, messages or static files. A synchronous middleware (static
files) also makes Django keep a thread for as long as a view runs, and a view here runs as long as a model
generates. So requests below /v1/ have a separate handler.
"""

from io import BytesIO
from typing import Any, BinaryIO

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from gainshare.gateway.requests import MAX_BODY_BYTES

PREFIX = "/v1/"


class BareHandler(ASGIHandler):
    """Django's ASGI handler with no middleware at all."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request without a dedicated thread: only signals and `close` need one, for a moment."""
        await self.handle(scope, receive, send)

    async def read_body(self, receive: Any) -> BinaryIO:
        """Read the body, at most one chunk beyond the limit, because the sender's key is not checked yet."""
        body, room = BytesIO(), MAX_BODY_BYTES + 1
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestAborted
            body.write(message.get("body", b"")[: room - body.tell()])
            if not message.get("more_body", False):
                break
        body.seek(0)
        return body

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = self._respond

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await self._get_response_async(request)  # type: ignore[attr-defined] # not in the stubs
        if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
            response["Content-Length"] = str(len(response.content))
        response["X-Content-Type-Options"] = "nosniff"
        return response


def with_gateway(site: Any) -> Any:
    """ASGI application that sends requests below /v1/ to the gateway and all others to `site`."""
    gateway = BareHandler()

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        door = gateway if scope["type"] == "http" and scope["path"].startswith(PREFIX) else site
        await door(scope, receive, send)

    return application
