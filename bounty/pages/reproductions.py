"""Pages of reproductions: submitting one, and declining one."""

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from bounty.models import Bounty
from bounty.pages.bounties import bounty_page
from bounty.pages.bug_forms import ReproductionForm
from bounty.services.reproductions import adopted, decline, find_reproduction, reproduce
from bounty.services.series.best import patch_base
from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.accounts.models import User
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@require_http_methods(["GET", "POST"])
def new_reproduction(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Page to paste or upload a file that shows the bug."""
    bounty = get_object_or_404(Bounty.objects.select_related("lineage"), pk=bounty_id)
    if not bounty.is_for_a_bug:
        raise Http404("This bounty is for a gain, not for a bug.")
    form = ReproductionForm(request.POST, request.FILES) if request.method == "POST" else ReproductionForm()
    if form.is_valid() and sent_in(form, request.user, bounty):
        messages.success(request, "Your reproduction was received. It is run as soon as a runner is free.")
        return redirect(f"{reverse('bounty', args=[bounty.pk])}#reproduction")
    context = {
        "form": form,
        "bounty": bounty,
        "first": adopted(bounty=bounty),
        "patch_base": patch_base(bounty=bounty),
    }
    return render(request, "bounty/reproduction_new.html", context, status=400 if form.errors else 200)


def sent_in(form: ReproductionForm, author: User, bounty: Bounty) -> bool:
    """Submit the reproduction of a valid form, once. If refused: False, with the reason in the form."""
    text = form.cleaned_data["reproduction"]
    try:
        form.made_once(
            user=author,
            what="reproduction",
            of=bounty.pk,
            make=lambda: str(reproduce(actor=author, bounty_id=bounty.pk, text=text).pk),
        )
    except IdConflict:
        refuse_resent(form, "call_id")
    except DomainError as error:
        form.add_error(None, error.message)
    return form.is_valid()


@signed_in
def decline_reproduction(request: SignedInRequest, bounty_id: UUID, reproduction_id: UUID) -> HttpResponse:
    """Decline a reproduction and redirect to the bounty."""
    if request.method == "POST":
        reason = typed_text(request)
        try:
            if find_reproduction(reproduction_id).bounty_id != bounty_id:
                raise Http404("This bounty has no such reproduction.")
            decline(actor=request.user, reproduction_id=reproduction_id, reason=reason)
        except DomainError as error:
            if error.status == 404:
                raise Http404(error.message) from None
            return bounty_page(
                request, bounty_id, Refused(f"decline-{reproduction_id}", reason, error.message)
            )
        messages.success(request, "The reproduction was declined. Its author can read your reason.")
    return redirect(f"{reverse('bounty', args=[bounty_id])}#reproduction")
