"""Actions on a lineage's page about its repository: bind, connect, fetch, end the binding, release after a lost tip."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect

from bounty.errors import NotFound
from bounty.github.repositories.bindings import ask_fetch, bind, release_repository_stop, unbind
from bounty.github.repositories.connections import connect
from bounty.pages.lineages.overview import lineage_page
from bounty.pages.lineages.repository_forms import ConnectForm, RepositoryForm
from gainshare.accounts.errors import DomainError
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
def bind_repository(request: SignedInRequest, name: str) -> HttpResponse:
    """Bind the lineage and redirect to its page."""
    if request.method != "POST":
        return redirect("lineage", name=name)
    form = RepositoryForm(request.POST)
    if not form.is_valid():
        return lineage_page(request, name, binding=form)
    try:
        bind(actor=request.user, name=name, **form.cleaned_data)
    except NotFound as error:
        raise Http404(error.message) from None
    except DomainError as error:
        form.add_error(None, error.message)
        return lineage_page(request, name, binding=form)
    messages.success(request, "The lineage is bound. Its branch is fetched now, and then every minute.")
    return redirect("lineage", name=name)


@signed_in
def connect_repository(request: SignedInRequest, name: str) -> HttpResponse:
    """Connect the lineage to a repository that the App sees, and redirect to its page."""
    if request.method != "POST":
        return redirect("lineage", name=name)
    form = ConnectForm(request.POST)
    if not form.is_valid():
        return lineage_page(request, name, connecting=form)
    try:
        connect(actor=request.user, name=name, **form.terms())
    except NotFound as error:
        raise Http404(error.message) from None
    except DomainError as error:
        form.add_error(None, error.message)
        return lineage_page(request, name, connecting=form)
    messages.success(request, "The repository is connected. Its pull requests are judged from now on.")
    return redirect("lineage", name=name)


@signed_in
def act(request: SignedInRequest, name: str, action: str) -> HttpResponse:
    """Fetch the repository, end the binding, or release the lineage; redirect to the lineage's page."""
    if action not in DONE:
        raise Http404("There is no such action.")
    if request.method != "POST":
        return redirect("lineage", name=name)
    text = typed_text(request)
    try:
        if action == "fetch":
            ask_fetch(actor=request.user, name=name)
        elif action == "unbind":
            unbind(actor=request.user, name=name)
        else:
            release_repository_stop(actor=request.user, name=name, reason=text)
    except NotFound as error:
        raise Http404(error.message) from None
    except DomainError as error:
        return lineage_page(request, name, Refused(f"repository-{action}", text, error.message))
    messages.success(request, DONE[action])
    return redirect("lineage", name=name)


DONE = {
    "fetch": "The branch is fetched now. Reload the page in a moment.",
    "unbind": "The lineage is no longer bound to a repository. Its tip stays as it is.",
    "release": "The lineage is released. Merges that waited are done, and the branch is followed again.",
}
