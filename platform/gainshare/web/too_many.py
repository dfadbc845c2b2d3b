"""The page for visitors who tried too often to sign in or up; REST has its own answer."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from gainshare.accounts.rate_limits import TooManyAttempts


class TooManyAttemptsMiddleware:
    """Answers 429 with Retry-After wherever a page's view let `TooManyAttempts` through."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, TooManyAttempts):
            return None
        response = render(request, "web/too_many.html", {"reason": exception.message}, status=429)
        for name, value in exception.headers.items():
            response[name] = value
        return response
