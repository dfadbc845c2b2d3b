"""Page of the emergency stop, and the banner on every page while something is stopped."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET

from bounty.models import StateChange, Switch
from bounty.services.emergency import lift, stop, switches
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.web.banners import Banner
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.signed_in import SignedInRequest, signed_in

SHOWN_CHANGES = 50
EFFECTS = {
    Switch.JUDGING: "No runner gets a run. Running runs return to the queue, and their attempts do not count.",
    Switch.AWARDS: "No award is booked and none vests. Submissions wait in their present state.",
    Switch.MERGES: "Submissions are still accepted; their merges wait.",
}


def stop_banners() -> list[Banner]:
    """One banner for each active stop, with its reason."""
    return [
        Banner(f"{row.get_name_display()} stopped: {row.reason}", reverse("stop"))
        for row in switches()
        if row.is_stopped
    ]


@require_GET
def stop_page(request: HttpRequest) -> HttpResponse:
    """Page of the three switches and their history, with buttons for maintainers."""
    return switches_page(request)


def switches_page(request: HttpRequest, refused: Refused | None = None) -> HttpResponse:
    """Page of the switches, with the typed reason of a change that was refused."""
    context = {
        "rows": [(row, EFFECTS[Switch(row.name)]) for row in switches()],
        "changes": StateChange.objects.filter(subject="stopswitch")
        .select_related("actor")
        .order_by("-pk")[:SHOWN_CHANGES],
        "may_press": isinstance(request.user, User) and request.user.is_maintainer,
        "refused": refused,
    }
    return render(request, "bounty/stop.html", context, status=409 if refused else 200)


@signed_in
def press(request: SignedInRequest, name: str) -> HttpResponse:
    """Stop or lift one switch, add a message, and redirect to the page."""
    if request.method != "POST":
        return redirect("stop")
    reason, is_lift = typed_text(request), request.POST.get("action") == "lift"
    try:
        row = (lift if is_lift else stop)(actor=request.user, switch=name, reason=reason)
    except DomainError as error:
        return switches_page(request, Refused(name, reason, error.message))
    state = "continues" if is_lift else "is stopped"
    messages.success(request, f"{row.get_name_display()} {state}.")
    return redirect("stop")
