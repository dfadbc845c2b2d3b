"""The pages for what is refused below a view: too many tries to sign in or up, and values that no database can take.

REST has its own answers, in `gainshare.accounts.errors`.
"""

from collections.abc import Callable

from django.db import DataError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from gainshare.accounts.errors import UnusableValue
from gainshare.accounts.rate_limits import TooManyAttempts


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
