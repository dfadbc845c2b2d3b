"""Page of a model's next prices by measured savings, for maintainers: the arithmetic, and its publication."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.gateway.prices.proposals import PriceStep, propose, publish_proposal
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.price_words import ITEMS, format_gb_seconds
from gainshare.web.signed_in import SignedInRequest, signed_in


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price in micro-credits: before all gains, in force, and as proposed."""

    name: str
    reference: int
    in_force: int
    proposed: int


@signed_in
@require_http_methods(["GET", "POST"])
def price_proposal(request: SignedInRequest, model: str) -> HttpResponse:
    """Page of the next draft by what the model's deployments save, and the button that publishes the draft shown."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can change prices. Ask a maintainer to give you that role.")
    refused = _publish(request, model) if request.method == "POST" else None
    if request.method == "POST" and refused is None:
        return redirect("prices")
    try:
        found = propose(model=model, now=timezone.now())
    except DomainError as error:
        raise Http404(error.message) from None
    lines = [(line, [row for step in line.prices for row in _rows(step)]) for line in found.lines]
    context = {"proposal": found, "lines": lines, "refused": refused}
    return render(request, "web/price_proposal.html", context, status=409 if refused else 200)


def _publish(request: SignedInRequest, model: str) -> Refused | None:
    """Publish the draft that was shown; why not, if it is refused."""
    digest = typed_text(request, "digest")
    try:
        version = publish_proposal(model=model, digest=digest, actor=request.user, now=timezone.now())
    except DomainError as error:
        return Refused("publish", "", error.message)
    at = f"{version.effective_at:%-d %b %Y, %H:%M:%S} UTC"
    messages.success(request, f"The price of {version.model} was published. It takes effect at {at}.")
    return None


def _rows(step: PriceStep) -> Iterator[PriceRow]:
    """A price, or a row for each tier of memory; nothing for a surcharge that the model does not have."""
    if isinstance(step.reference, int):
        if step.reference:
            yield PriceRow(ITEMS.get(step.term, step.term), step.reference, step.in_force, step.proposed)
        return
    for (above, reference), (_, in_force), (_, proposed) in zip(
        step.reference, step.in_force, step.proposed, strict=False
    ):
        begin = f" above {format_gb_seconds(above)}" if above else ""
        yield PriceRow(f"{ITEMS['memory']}{begin}, a GB\N{MIDDLE DOT}s", reference, in_force, proposed)
