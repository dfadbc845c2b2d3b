"""Compresses what the site answers with, for clients that accept gzip: pages, JSON, and its own static files.

Pages and JSON go through Django's middleware, which adds a random number of bytes to each answer: an attacker who can
bring text into a page cannot tell a form's token by the compressed length (BREACH). A static file holds no secret; it
is compressed once and kept. Streams are never touched, so nothing of them is held back.
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
    """Django's, for text alone and never for streams; with static files in addition."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self._files: dict[str, bytes] = {}  # at most one for each static file there is

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
        # The tag names the uncompressed file. Without it browsers ask again by the date, which holds for both.
        del response["ETag"]
