"""Domain errors of the whole platform, and the handler that renders REST errors.

Every app's own errors derive from :class:`DomainError`. The handler gives each of them, and each of DRF's and
Django's, the shape ``{"error": {"code", "message", "details"?}}``. It never repeats a credential that a caller sent.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.signals import got_request_exception
from django.db import DataError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

logger = logging.getLogger(__name__)

CREDENTIAL = re.compile(r"\b(gs[rh]?)_[A-Za-z0-9_\-]+")


class DomainError(Exception):
    """A rule of the platform refused the call. ``code`` is stable, for programs; ``message`` says what to do.

    ``status`` is the HTTP status that REST answers with, ``headers`` what it adds to the answer's.
    """

    code = "refused"
    status = 400
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status or type(self).status


class UnusableValue(DomainError):
    """The request holds a value that the database cannot take: a NUL character, or a number beyond 64 bits."""

    code = "invalid"
    status = 400

    @classmethod
    def of(cls, error: DataError) -> "UnusableValue":
        """The error for a database error. It is logged, because a service should not let such values through."""
        logger.warning("the database cannot take a value: %s", error, exc_info=error)
        return cls(
            "The request holds a NUL character or a number beyond 64 bits, which cannot be stored. Leave it out."
        )


class IdConflict(DomainError):
    """The id that the caller made already belongs to another call."""

    code = "id_conflict"
    status = 409


def redact(text: str) -> str:
    """``text`` with every API key and runner token replaced by its kind: ``gs_***``."""
    return CREDENTIAL.sub(r"\1_***", text)


def error_body(code: str, message: str, details: Any = None) -> dict[str, Any]:
    """The JSON document of one error; ``details`` stays out when there are none."""
    error: dict[str, Any] = {"code": code, "message": redact(message)}
    if details is not None:
        error["details"] = _plain(details)
    return {"error": error}


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's ``EXCEPTION_HANDLER``: renders every error in one JSON shape, an unexpected one as a logged 500."""
    from rest_framework.views import set_rollback  # its import reads settings that name models

    set_rollback()
    if isinstance(exc, DataError):
        exc = UnusableValue.of(exc)
    if isinstance(exc, DomainError):
        headers = {"WWW-Authenticate": "Bearer"} if exc.status == 401 else dict(exc.headers)
        return Response(error_body(exc.code, exc.message), status=exc.status, headers=headers)
    if isinstance(exc, Http404):
        exc = exceptions.NotFound()
    elif isinstance(exc, DjangoPermissionDenied):
        exc = exceptions.PermissionDenied()
    if isinstance(exc, exceptions.APIException):
        return _render_api_exception(exc)
    logger.exception("unexpected error in %s", type(context.get("view")).__name__, exc_info=exc)
    # Django's own 500 path sends this signal; test clients and error trackers listen to it.
    got_request_exception.send(sender=None, request=context.get("request"))
    return Response(
        error_body("internal_error", "The platform failed, and the failure was logged. Try again later."),
        status=500,
    )


def _render_api_exception(exc: exceptions.APIException) -> Response:
    headers: dict[str, str] = {}
    if auth_header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(int(wait))
    if isinstance(exc, exceptions.ValidationError):
        body = error_body(
            "invalid", "Some fields are not valid. `details` names them and says why.", exc.detail
        )
    else:
        code = exc.get_codes()
        body = error_body(code if isinstance(code, str) else exc.default_code, str(exc.detail))
    return Response(body, status=exc.status_code, headers=headers)


def _plain(details: Any) -> Any:
    """DRF's error details as plain JSON types, redacted."""
    if isinstance(details, dict):
        return {str(key): _plain(value) for key, value in details.items()}
    if isinstance(details, list | tuple):
        return [_plain(value) for value in details]
    return redact(str(details))
