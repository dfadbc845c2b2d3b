"""Pages: home, login, sign-up, account, change of password."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods

from gainshare.accounts.entrance_limits import place_in_line
from gainshare.accounts.entrance_limits import sign_up as sign_up_account
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.rate_limits import TooManyAttempts
from gainshare.ledger.services import balance
from gainshare.web.forms.account import SignUpForm
from gainshare.web.home_parts import parts_for, steps_for
from gainshare.web.signed_in import SignedInRequest, signed_in
from gainshare.web.views.own_addresses import safe_next


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """Home page: introduction, activity, and the user's balance and next steps."""
    context: dict[str, Any] = {
        "api_base": settings.PUBLIC_URL.rstrip("/") + "/v1",
        "parts": parts_for(request.user),
    }
    if isinstance(request.user, User):
        context |= {"balance": balance(request.user), "steps": steps_for(request.user)}
    return render(request, "web/home.html", context)


class LogIn(LoginView):
    template_name = "web/login.html"
    redirect_authenticated_user = True


@sensitive_post_parameters("password", "password_again")
@require_http_methods(["GET", "POST"])
def sign_up(request: HttpRequest) -> HttpResponse:
    """Sign-up page, if sign-up is open: make an account, and log in unless the account waits its turn."""
    if request.user.is_authenticated:
        return redirect("home")
    if not settings.OPEN_SIGNUP:
        return render(request, "web/signup_closed.html", status=403)
    form = SignUpForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            user = sign_up_account(
                request=request,
                username=form.cleaned_data["username"],
                password=form.cleaned_data["password"],
                email=form.cleaned_data["email"],
            )
        except TooManyAttempts:
            raise
        except DomainError as error:
            form.add_error("username" if error.code == "username_taken" else None, error.message)
        else:
            if user.is_waiting:
                waits = {"person": user, "ahead": place_in_line(user)}
                return render(request, "web/signup_waits.html", waits, status=202)
            login(request, user)
            messages.success(
                request, f"Welcome, {user.username}. Make an API key to use models or submit patches."
            )
            return redirect(safe_next(request) or "home")
    return render(request, "web/signup.html", {"form": form, "next": safe_next(request)})


@signed_in
@require_GET
def account(request: SignedInRequest) -> HttpResponse:
    """Page of the user's account."""
    context = {
        "person": request.user,
        "scopes": sorted(request.user.allowed_scopes),
        "github": GitHubAccount.objects.filter(user=request.user).first(),
        "github_url": settings.GITHUB_URL,
    }
    return render(request, "web/account.html", context)


class ChangePassword(PasswordChangeView):
    template_name = "web/password.html"
    success_url = reverse_lazy("account")

    def form_valid(self, form: object) -> HttpResponse:
        assert isinstance(self.request.user, User)
        messages.success(self.request, "Your password was changed.")
        return super().form_valid(form)  # type: ignore[arg-type]  # Django's stub names the mixin's form
