"""One's API keys: make (shown once), list, revoke."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import ApiKey, Scope
from gainshare.accounts.services import create_api_key, revoke_api_key
from gainshare.web.forms import KeyForm
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@never_cache
@require_http_methods(["GET", "POST"])
def keys(request: SignedInRequest) -> HttpResponse:
    """The user's keys. A new key's text is in the answer to the POST that made it, and nowhere else."""
    raw = None
    initial = {"scopes": [Scope.INFERENCE.value, Scope.READ.value]}
    form = KeyForm(request.POST if request.method == "POST" else None, user=request.user, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            _, raw = create_api_key(
                user=request.user,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                expires_at=form.expires_at(),
            )
            form = KeyForm(user=request.user, initial=initial)
        except DomainError as error:
            form.add_error(None, error.message)
    own = ApiKey.objects.filter(user=request.user)
    now = timezone.now()
    rows = [(key, key_state(key)) for key in own]
    status = 400 if form.errors else 200
    return render(
        request, "web/keys.html", {"form": form, "rows": rows, "raw": raw, "now": now}, status=status
    )


def key_state(key: ApiKey) -> str:
    """`active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.refusal(timezone.now()) is None else "expired"


@signed_in
@require_POST
def revoke(request: SignedInRequest, prefix: str) -> HttpResponse:
    """Revoke one key; it stops working at once."""
    try:
        key = revoke_api_key(user=request.user, prefix=prefix)
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The key “{key.name}” was revoked.")
    return redirect("keys")
