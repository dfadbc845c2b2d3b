"""Actions on a lineage's page about production: deploy its tip, and have it deployed by itself."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect

from bounty.errors import NotFound
from bounty.pages.lineages.deployment_forms import DeployForm
from bounty.pages.lineages.overview import lineage_page
from bounty.services.deployments.tips import deploy_tip, find_lineage, set_automatic
from gainshare.accounts.errors import DomainError
from gainshare.web.signed_in import SignedInRequest, signed_in

AUTOMATIC = {"automatic-on": True, "automatic-off": False}


@signed_in
def deploy(request: SignedInRequest, name: str) -> HttpResponse:
    """Deploy the tip and redirect to the deployment, or change the setting and redirect to the lineage."""
    if request.method != "POST":
        return redirect("lineage", name=name)
    try:
        find_lineage(name)
    except NotFound as error:
        raise Http404(error.message) from None
    form = DeployForm(request.POST)
    if not form.is_valid():
        return lineage_page(request, name, deploying=form)
    model, action = form.cleaned_data["model"], request.POST.get("action", "")
    try:
        if action in AUTOMATIC:
            set_automatic(actor=request.user, name=name, model=model, is_on=AUTOMATIC[action])
            messages.success(request, "Saved. The tip after the next merge follows this setting.")
            return redirect("lineage", name=name)
        made = deploy_tip(actor=request.user, name=name, model=model)
    except DomainError as error:
        form.add_error(None, error.message)
        return lineage_page(request, name, deploying=form)
    messages.success(request, "The tip is tried against the tree that serves now. This page follows it.")
    return redirect("deployment", deployment_id=made.pk)
