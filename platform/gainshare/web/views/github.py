"""Sign-in with GitHub: start it, come back from it, choose a name, or link the account of a signed-in user.

What was started is kept in the browser's session, with a state and a verifier (PKCE) of its own. An answer counts once,
in the session that started it, for the user who was signed in then, and within ten minutes.
"""

import hmac
import time
from dataclasses import asdict, dataclass
from datetime import datetime

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from gainshare.accounts.entrance_limits import AccountWaits, allow_sign_in, allow_start
from gainshare.accounts.errors import DomainError
from gainshare.accounts.github_accounts import link
from gainshare.accounts.github_entrance import enter, user_of
from gainshare.accounts.github_oauth import Person, authorize_url, is_offered, new_secret, person_of
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.rate_limits import TooManyAttempts
from gainshare.web.forms.account import GitHubNameForm
from gainshare.web.views.own_addresses import safe_next

STARTED, SEEN = "github_started", "github_seen"  # in the session
ANSWER_S, NAME_S = (
    600,
    1800,
)  # how long an answer from GitHub counts, and how long a name can be chosen after it
MAX_CODE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Started:
    """A sign-in that this browser started: ``user_id`` is who links the account; none for who signs in."""

    state: str
    verifier: str
    next: str
    user_id: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """Who came back from GitHub in this browser and has no name here yet."""

    github_id: int
    login: str
    next: str
    at: float
    joined: str = ""  # ISO 8601; empty where GitHub did not say

    @classmethod
    def of(cls, person: Person, target: str) -> "Seen":
        joined = person.joined_at.isoformat() if person.joined_at is not None else ""
        return cls(person.github_id, person.login, target, time.time(), joined)

    @property
    def person(self) -> Person:
        joined_at = datetime.fromisoformat(self.joined) if self.joined else None
        return Person(self.github_id, self.login, joined_at)


@never_cache
@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """Page that leads on to GitHub. It is a page, since a form may not lead to another host here."""
    _require_offer()
    allow_start(request)
    user_id = request.user.pk if isinstance(request.user, User) else None
    started = Started(new_secret(), new_secret(), safe_next(request), user_id, time.time())
    request.session.cycle_key()
    request.session[STARTED] = asdict(started)
    address = authorize_url(
        state=started.state,
        verifier=started.verifier,
        redirect_uri=settings.PUBLIC_URL.rstrip("/") + reverse("github-callback"),
    )
    return render(request, "web/github_leaves.html", {"address": address})


@never_cache
@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Address that GitHub sends the browser back to: sign in, link, or go on to choosing a name."""
    _require_offer()
    allow_sign_in(request)
    started = _answered(request)
    if started is None:
        return _refused(
            request, "This sign-in was not started in this browser, or too long ago. Start it again.", 400
        )
    if started.user_id != (request.user.pk if isinstance(request.user, User) else None):
        return _refused(request, "You logged in or out meanwhile, so nothing was done. Start again.", 400)
    code = request.GET.get("code", "")
    if not code or len(code) > MAX_CODE_CHARS:
        messages.warning(request, "You were not signed in with GitHub, because it was not allowed there.")
        return redirect("account" if started.user_id else "login")
    try:
        person = person_of(code=code, verifier=started.verifier)
        if isinstance(request.user, User):
            return _linked(request, request.user, person, started)
        user = user_of(person)
    except (TooManyAttempts, AccountWaits):
        raise
    except DomainError as error:
        return _refused(request, error.message, error.status)
    if user is not None:
        return _signed_in(request, user, started.next)
    request.session.cycle_key()
    request.session[SEEN] = asdict(Seen.of(person, started.next))
    return redirect("github-welcome")


@never_cache
@require_http_methods(["GET", "POST"])
def welcome(request: HttpRequest) -> HttpResponse:
    """Page on which a new user from GitHub chooses a user name."""
    _require_offer()
    seen = _seen(request)
    if seen is None or request.user.is_authenticated:
        request.session.pop(SEEN, None)
        return redirect("home" if request.user.is_authenticated else "login")
    account = GitHubAccount.objects.filter(pk=seen.github_id).first()
    form = GitHubNameForm(
        request.POST if request.method == "POST" else None, initial={"username": seen.login}
    )
    if form.is_valid():
        try:
            user = enter(request=request, person=seen.person, username=form.cleaned_data["username"])
        except TooManyAttempts:
            raise
        except AccountWaits:
            del request.session[SEEN]
            raise
        except DomainError as error:
            form.add_error("username", error.message)
        else:
            del request.session[SEEN]
            messages.success(request, f"Welcome, {user.username}. You sign in with GitHub from now on.")
            return _signed_in(request, user, seen.next)
    context = {"form": form, "seen": seen, "is_dormant": account is not None}
    return render(request, "web/github_welcome.html", context, status=400 if form.errors else 200)


def _require_offer() -> None:
    if not is_offered():
        raise Http404("Sign-in with GitHub is not set up on this site.")


def _answered(request: HttpRequest) -> Started | None:
    """What this browser started and is answered now, for once; None if the state is not its own or too old."""
    kept = request.session.get(STARTED)
    if kept is None:
        return None
    started = Started(**kept)
    if not hmac.compare_digest(request.GET.get("state", "").encode(), started.state.encode()):
        return None  # somebody else's; what this browser started still counts
    del request.session[STARTED]
    request.session.save()  # before GitHub is asked, so that a second answer finds nothing
    return started if time.time() - started.at <= ANSWER_S else None


def _seen(request: HttpRequest) -> Seen | None:
    kept = request.session.get(SEEN)
    seen = Seen(**kept) if kept is not None else None
    return seen if seen is not None and time.time() - seen.at <= NAME_S else None


def _linked(request: HttpRequest, user: User, person: Person, started: Started) -> HttpResponse:
    account = link(user=user, github_id=person.github_id, login=person.login)
    messages.success(request, f"The GitHub account {account.login} is linked to yours.")
    return redirect(started.next or "account")


def _signed_in(request: HttpRequest, user: User, target: str) -> HttpResponse:
    login(request, user)
    return redirect(target or "home")


def _refused(request: HttpRequest, reason: str, status: int) -> HttpResponse:
    return render(request, "web/github_refused.html", {"reason": reason}, status=status)
