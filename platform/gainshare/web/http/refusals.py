"""The answers to what is refused outside of a view: too many tries, values that no database can take, no such page.

People get pages, programs JSON. REST's views have their own answers, in `gainshare.accounts.errors`.
"""

from collections.abc import Callable

from django.db import DataError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views import defaults

from gainshare.accounts.errors import UnusableValue, error_body
from gainshare.accounts.rate_limits import TooManyAttempts
from gainshare.web.http.unknown import is_for_programs, unknown_address
from gainshare.web.paging import NoSuchPage


class RefusalsMiddleware:
    """Answers 429 with Retry-After, or 400, wherever a page's view let the refusal through."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, DataError):
            exception = UnusableValue.of(exception)
        if not isinstance(exception, TooManyAttempts | UnusableValue):
            return None
        response = render(request, "web/refusal.html", {"error": exception}, status=exception.status)
        for name, value in exception.headers.items():
            response[name] = value
        return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400: what came could not be read as a request at all."""
    if is_for_programs(request):
        return _json("bad_request", "The request could not be read; nothing was done.", 400)
    return defaults.bad_request(request, exception)


def denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, with the reason that the view gave."""
    if is_for_programs(request):
        return _json("permission_denied", str(exception) or "This is not allowed.", 403)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404; for a page of a list that it does not have, with how many it has."""
    if is_for_programs(request):
        return unknown_address(request)
    if isinstance(exception, NoSuchPage):
        return render(request, "web/no_such_page.html", {"error": exception}, status=404)
    return defaults.page_not_found(request, exception)


def failed(request: HttpRequest) -> HttpResponse:
    """500: the failure is logged."""
    if is_for_programs(request):
        return _json("internal_error", "The platform failed; the failure is logged.", 500)
    return defaults.server_error(request)


def _json(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse(error_body(code, message), status=status)
