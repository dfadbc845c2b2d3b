"""Decorator for views that need a logged-in user, with a narrowed type of the request."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse

from gainshare.accounts.models import User

P = ParamSpec("P")
R = TypeVar("R", bound=HttpResponse)


class SignedInRequest(HttpRequest):
    """A request of a logged-in user."""

    user: User


def signed_in(
    view: Callable[Concatenate[SignedInRequest, P], R],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """Redirect visitors to the login page and back. After a POST, a message says that nothing was done."""

    @login_required
    @functools.wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        assert isinstance(request.user, User)
        return view(request, *args, **kwargs)  # type: ignore[arg-type]  # the user was checked above

    @functools.wraps(view)
    def told(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if request.method == "POST" and not request.user.is_authenticated:
            messages.warning(
                request, "You were logged out, so nothing was changed. Log in and send it again."
            )
        return checked(request, *args, **kwargs)

    return told
