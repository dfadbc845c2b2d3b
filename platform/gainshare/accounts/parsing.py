"""Parsing and pagination of REST, both with limits."""

import io
from collections.abc import Mapping
from typing import Any

from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import JSONParser

SMALL_BYTES = 4 * 1024 * 1024
MAX_PAGE = 500  # rows


class BodyTooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"
    default_detail = "The request's body is too large."


class BoundedJSONParser(JSONParser):
    """JSON parser that reads at most ``max_bytes``, whatever Content-Length says."""

    max_bytes = SMALL_BYTES

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body = stream.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            raise BodyTooLarge(
                f"The request's body is too large: it may have at most {self.max_bytes} bytes."
            )
        try:
            return super().parse(io.BytesIO(body), media_type, parser_context)
        except RecursionError:
            raise ParseError("The request's JSON is nested too deeply.") from None


class BoundedPagination(LimitOffsetPagination):
    """Pagination by ``?limit=&offset=``; a limit above ``max_limit`` is lowered to it."""

    max_limit = MAX_PAGE
