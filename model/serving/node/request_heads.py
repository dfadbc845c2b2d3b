"""uvicorn's HTTP protocol with limits on a request's head: bytes, header fields and time.

    uvicorn … --http model.serving.node.request_heads:BoundedHeads

httptools has no limits, and everything here comes before authentication. A head that is too large is answered 431, a
late one 408, in OpenAI's shape. Trailers and chunk extensions are bounded alike. Does not import torch.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from model.serving.api.errors import ApiError

MAX_HEAD_BYTES = 64 << 10  # of address, names and values, unparsed bytes included
MAX_FIELDS = 128
HEAD_TIMEOUT_S = 20.0  # from the connection, or a request's first byte, to the end of its headers
LINGER_BYTES = 4 << 20  # that a refused client may still send while it reads the answer
LINGER_S = 2.0


class _RefusedError(Exception):
    """Ends parsing; the response is in `_refusal`."""


class BoundedHeads(HttpToolsProtocol):
    """One connection. A refused one is closed, and its further bytes are dropped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal: ApiError | None = None
        self._is_refused = False
        self._has_begun = False  # a request's first byte has come, and its headers have not ended
        self._n_bytes = self._n_fields = 0  # of this request's address, headers and trailers
        self._n_silent = 0  # bytes since the parser's last callback: an unfinished line
        self._n_ignored = 0
        self._timer: TimerHandle | None = None

    # -- the connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._ignore(len(data))
            return
        self._n_silent += len(data)
        super().data_received(data)
        if self._is_refused or self.transport.is_closing():
            return
        if self._n_silent > MAX_HEAD_BYTES:
            self._refuse(_too_large(f"a line of more than {MAX_HEAD_BYTES:,} bytes"))
        elif (
            self._timer is None and self._is_idle
        ):  # the bytes were no request, or the rest of one: uvicorn does not close it
            self._start_timer()

    def eof_received(self) -> None:
        if self._is_refused:
            self.transport.close()
        super().eof_received()

    # -- callbacks of the parser -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._n_bytes = self._n_fields = 0
        self._has_begun = True
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after a chunked body."""
        self._n_fields += 1
        if self._n_fields > MAX_FIELDS:
            self._stop_parsing(_too_large(f"more than {MAX_FIELDS} header fields"))
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._n_silent = 0
        self._has_begun = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._n_silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._n_silent = 0
        super().on_message_complete()

    def _count(self, n_bytes: int) -> None:
        self._n_silent = 0
        self._n_bytes += n_bytes
        if self._n_bytes > MAX_HEAD_BYTES:
            self._stop_parsing(_too_large(f"more than {MAX_HEAD_BYTES:,} bytes"))

    # -- refusing -------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """uvicorn's response to a request that cannot be parsed, or ours if we stopped parsing."""
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._is_idle:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _stop_parsing(self, refusal: ApiError) -> None:
        self._refusal = refusal
        raise _RefusedError

    def _refuse(self, refusal: ApiError) -> None:
        """Respond, unless a response is in progress on this connection, and close."""
        self._stop_timer()
        self._is_refused = True
        if not self._is_idle or (self.cycle is not None and not self._has_begun):
            self.transport.close()
            return
        self.transport.write(_answer(refusal, self.server_state.default_headers))
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # closing with bytes unread would reset the connection, and the client might lose the answer
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    @property
    def _is_idle(self) -> bool:
        """Whether no response is in progress on this connection."""
        return self.cycle is None or self.cycle.response_complete

    def _ignore(self, n_bytes: int) -> None:
        self._n_ignored += n_bytes
        if self._n_ignored > LINGER_BYTES:
            self.transport.abort()

    # -- time -----------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._has_begun:  # an idle connection
            self.transport.close()
            return
        message = (
            f"the headers of this request did not end within {HEAD_TIMEOUT_S:g} s: send them without a pause"
        )
        self._refuse(ApiError(408, "headers_too_slow", message))


def _too_large(what: str) -> ApiError:
    message = (
        f"this request has {what} before its body; at most {MAX_HEAD_BYTES:,} bytes and {MAX_FIELDS} fields are read: "
        "send less in its address, cookies and other headers"
    )
    return ApiError(431, "headers_too_large", message)


def _answer(refusal: ApiError, headers: list[tuple[bytes, bytes]]) -> bytes:
    body = json.dumps(refusal.body()).encode()
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in [*headers, *own])
    return STATUS_LINE[refusal.status] + lines + b"\r\n" + body
