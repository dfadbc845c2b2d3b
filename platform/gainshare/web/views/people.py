"""Page of users' roles, for maintainers."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import Role, RoleChange, User
from gainshare.accounts.services import set_role
from gainshare.web.forms.account import RoleForm
from gainshare.web.signed_in import SignedInRequest, signed_in

SHOWN = 100  # rows of maintainers, and of changes


@signed_in
@require_http_methods(["GET", "POST"])
def people(request: SignedInRequest) -> HttpResponse:
    """Page with the maintainers, a form that changes a role, and the changes so far, newest first."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can change roles. Ask a maintainer to give you that role.")
    form = RoleForm(request.POST if request.method == "POST" else None)
    if form.is_valid() and change_role(form, request.user):
        user = User.objects.get(username=form.cleaned_data["username"])
        messages.success(request, f"{user.username} is now a {user.get_role_display().lower()}.")
        # A user who gave up the role may no longer see this page.
        return redirect("people" if User.objects.get(pk=request.user.pk).is_maintainer else "account")
    maintainers = User.objects.filter(Q(role=Role.MAINTAINER) | Q(is_superuser=True)).order_by("username")
    changes = RoleChange.objects.select_related("user", "actor")
    context = {
        "form": form,
        "maintainers": maintainers[:SHOWN],
        "changes": changes[:SHOWN],
        "n_people": User.objects.filter(is_active=True).count(),
    }
    return render(request, "web/people.html", context, status=400 if form.errors else 200)


def change_role(form: RoleForm, actor: User) -> bool:
    """Make the change of a valid form. If refused: False, with the reason in the form."""
    data = form.cleaned_data
    try:
        set_role(actor=actor, username=data["username"], role=data["role"], reason=data["reason"])
    except DomainError as error:
        form.add_error("username" if error.code == "not_found" else None, error.message)
    return form.is_valid()
