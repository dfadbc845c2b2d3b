"""A maintainer's answer about a branch that took a merged gain back, or brought it again. Asked on the lineage's page."""

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect

from bounty.errors import NotFound
from bounty.github.merging.reversals import ANSWERS, decide
from bounty.pages.lineages.overview import lineage_page
from gainshare.accounts.errors import DomainError
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
def decide_reversal(request: SignedInRequest, name: str, reversal_id: UUID, answer: str) -> HttpResponse:
    """Confirm or dismiss the question, and redirect to the lineage's page."""
    if answer not in ANSWERS:
        raise Http404("There is no such answer.")
    if request.method != "POST":
        return redirect("lineage", name=name)
    text = typed_text(request)
    try:
        decide(actor=request.user, reversal_id=reversal_id, answer=answer, text=text)
    except NotFound as error:
        raise Http404(error.message) from None
    except DomainError as error:
        return lineage_page(request, name, Refused(f"reversal-{answer}", text, error.message))
    messages.success(request, "Your decision was recorded. The branch is followed again.")
    return redirect("lineage", name=name)
