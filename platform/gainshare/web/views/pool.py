"""Pages of the pool: all classes, hosts, nodes and runners, and maintainers' form for a class."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.capacity.models import DeviceClass
from gainshare.capacity.pool.classes import change_class, create_class, find_class
from gainshare.capacity.pool.errors import NoSuchClass
from gainshare.capacity.pool.overview import overview
from gainshare.web.forms.class_forms import ClassForm
from gainshare.web.signed_in import SignedInRequest, signed_in


@signed_in
@require_GET
def pool(request: SignedInRequest) -> HttpResponse:
    """Page of the pool. An empty one says what to do first."""
    view = overview(timezone.now(), for_maintainers=request.user.is_maintainer)
    return render(request, "web/pool.html", {"pool": view})


@signed_in
@require_http_methods(["GET", "POST"])
def new_class(request: SignedInRequest) -> HttpResponse:
    """Form that creates a class."""
    return _class_form(request, None)


@signed_in
@require_http_methods(["GET", "POST"])
def edit_class(request: SignedInRequest, name: str) -> HttpResponse:
    """Form that changes a class, with every price that it had."""
    try:
        return _class_form(request, find_class(name))
    except NoSuchClass as error:
        raise Http404(error.message) from None


def _class_form(request: SignedInRequest, of: DeviceClass | None) -> HttpResponse:
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can change the pool's classes. Ask one of them.")
    form = ClassForm(request.POST if request.method == "POST" else None, of=of)
    if form.is_valid() and (saved := _save(request, form, of)) is not None:
        messages.success(request, f"The class {saved.name} is saved.")
        return redirect("pool")
    prices = list(of.prices.select_related("set_by")) if of is not None else []
    context = {"form": form, "device_class": of, "prices": prices}
    return render(request, "web/pool_class.html", context, status=400 if form.errors else 200)


def _save(request: SignedInRequest, form: ClassForm, of: DeviceClass | None) -> DeviceClass | None:
    """Save a valid form. If refused: None, with the reason in the form."""
    fields = form.fields_of_class()
    try:
        if of is None:
            return create_class(actor=request.user, **fields)
        return change_class(actor=request.user, name=of.name, **fields)
    except DomainError as error:
        form.add_error(None, error.message)
        return None
