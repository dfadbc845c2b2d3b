"""Changing how a lineage's gains are shared."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from bounty.models import Lineage
from bounty.pages.lineages.law_forms import PPM_OF_PERCENT, LawForm
from bounty.pages.lineages.overview import lineage_page
from bounty.services.royalties.laws import in_words, set_law
from gainshare.accounts.errors import DomainError
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@require_POST
def change_law(request: SignedInRequest, name: str) -> HttpResponse:
    """Add a version of the lineage's law, and redirect to the lineage's page."""
    if not request.user.is_maintainer:
        raise PermissionDenied(
            "Only maintainers can change how gains are shared. Ask a maintainer to give you that role."
        )
    get_object_or_404(Lineage, name=name)
    form = LawForm(request.POST)
    if not form.is_valid():
        return lineage_page(request, name, law=form)
    data = form.cleaned_data
    try:
        made = set_law(
            actor=request.user,
            lineage=name,
            share_ppm=int(data["share"] * PPM_OF_PERCENT),
            days=data["days"],
            reason=data["reason"],
        )
    except DomainError as error:
        form.add_error(None, error.message)
        return lineage_page(request, name, law=form)
    messages.success(request, f"Submissions from now on: their makers get {in_words(made.terms)}.")
    return redirect("lineage", name=name)
