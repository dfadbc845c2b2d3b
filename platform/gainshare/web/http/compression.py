"""Compression of answers for clients that accept gzip: pages, JSON, and static files.

Pages and JSON use Django's middleware, which adds a random number of bytes to each answer, so that the
compressed length does not reveal a form's token (BREACH). A static file has no secret; it is compressed once
and cached. Streams are not compressed, so they are not buffered.
"""

import gzip
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware, re_accepts_gzip
from django.utils.cache import patch_vary_headers
from whitenoise.middleware import WhiteNoiseFileResponse

TEXT = (
    "text/html", "text/css", "text/plain", "text/javascript", "text/x-diff", "application/javascript",
    "application/json", "application/vnd.oai.openapi", "application/vnd.oai.openapi+json", "image/svg+xml",
)  # fmt: skip


class CompressionMiddleware(GZipMiddleware):
    """Django's middleware, for text and static files, but not for streams."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self._files: dict[str, bytes] = {}  # at most one entry per static file

    def process_response(self, request: HttpRequest, response: Any) -> HttpResponseBase:
        if response.get("Content-Type", "").partition(";")[0] not in TEXT:
            return response  # type: ignore[no-any-return]
        if not response.streaming:
            return super().process_response(request, response)
        if isinstance(response, WhiteNoiseFileResponse):
            self._compress_file(request, response)
        return response  # type: ignore[no-any-return]

    def _compress_file(self, request: HttpRequest, response: Any) -> None:
        patch_vary_headers(response, ("Accept-Encoding",))
        is_whole = request.method == "GET" and response.status_code == 200
        if not is_whole or not re_accepts_gzip.search(request.headers.get("Accept-Encoding", "")):
            return
        if request.path_info not in self._files:
            content = b"".join(response.streaming_content)
            self._files[request.path_info] = gzip.compress(content, mtime=0)
        compressed = self._files[request.path_info]
        response.streaming_content = [compressed]
        response["Content-Encoding"] = "gzip"
        response["Content-Length"] = str(len(compressed))
        # The ETag is that of the uncompressed file. Without it, browsers revalidate by date, which fits both.
        del response["ETag"]
