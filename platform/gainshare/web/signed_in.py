"""Views for people who are logged in, with the type of the user narrowed for the checker."""

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
    """A request whose user is known."""

    user: User


def signed_in(
    view: Callable[Concatenate[SignedInRequest, P], R],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """Send visitors to the login page first, and back afterwards; one who was sending a form hears that it is lost."""

    @login_required
    @functools.wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        assert isinstance(request.user, User)
        return view(request, *args, **kwargs)  # type: ignore[arg-type]  # the user was checked above

    @functools.wraps(view)
    def told(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if request.method == "POST" and not request.user.is_authenticated:
            messages.warning(request, "You were logged out, so nothing was done. Log in and do it again.")
        return checked(request, *args, **kwargs)

    return told
