"""Answers for errors outside of REST views: rate limits, unusable values, 400, 403, 404, 500.

People get pages, programs get JSON. `gainshare.accounts.errors` renders errors of REST views.
"""

from collections.abc import Callable

from django.db import DataError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views import defaults

from gainshare.accounts.entrance_limits import AccountWaits
from gainshare.accounts.errors import UnusableValue, error_body
from gainshare.accounts.rate_limits import TooManyAttempts
from gainshare.web.http.unknown import is_for_programs, unknown_address
from gainshare.web.paging import NoSuchPage


class RefusalsMiddleware:
    """Converts rate limits, waiting accounts and unusable values from page views to 429 (with Retry-After), 403 and 400."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, DataError):
            exception = UnusableValue.of(exception)
        if not isinstance(exception, TooManyAttempts | AccountWaits | UnusableValue):
            return None
        response = render(request, "web/refusal.html", {"error": exception}, status=exception.status)
        for name, value in exception.headers.items():
            response[name] = value
        return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400: the request could not be parsed."""
    if is_for_programs(request):
        return _json(
            "bad_request",
            "The request could not be read, so nothing was changed. Check its form and encoding.",
            400,
        )
    return defaults.bad_request(request, exception)


def denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, with the reason that the view gave."""
    if is_for_programs(request):
        return _json("permission_denied", str(exception) or "Your account is not allowed to do this.", 403)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404; for a missing page of a list, with the number of its pages."""
    if is_for_programs(request):
        return unknown_address(request)
    if isinstance(exception, NoSuchPage):
        return render(request, "web/no_such_page.html", {"error": exception}, status=404)
    return defaults.page_not_found(request, exception)


def failed(request: HttpRequest) -> HttpResponse:
    """500; the failure was logged by Django."""
    if is_for_programs(request):
        return _json(
            "internal_error", "The platform failed, and the failure was logged. Try again later.", 500
        )
    return defaults.server_error(request)


def _json(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse(error_body(code, message), status=status)
