"""Pages of lineages: lines of trees that grow by merging measured patches."""

import re

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from bounty.models import Bounty, Lineage, StateChange, Submission
from bounty.pages.forms import LineageForm
from bounty.services.transitions import history
from bounty.services.trees import create_lineage
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.web.paging import page_of

PER_PAGE = 50
SUBMISSION_ID = re.compile(r"submission ([0-9a-f-]{36})")


@require_http_methods(["GET", "POST"])
def lineage_list(request: HttpRequest) -> HttpResponse:
    """Every lineage; maintainers start new ones here."""
    is_maintainer = isinstance(request.user, User) and request.user.is_maintainer
    form = LineageForm(request.POST if request.method == "POST" else None) if is_maintainer else None
    if request.method == "POST":
        if form is None or not isinstance(request.user, User):
            raise PermissionDenied("Only a maintainer starts a lineage.")
        if form.is_valid():
            try:
                lineage = create_lineage(
                    actor=request.user,
                    name=form.cleaned_data["name"],
                    base_tree=form.cleaned_data["base_tree"],
                )
            except DomainError as error:
                form.add_error(None, error.message)
            else:
                messages.success(request, f"The lineage {lineage.name} has started.")
                return redirect("lineage", name=lineage.name)
    lineages = Lineage.objects.annotate(n_bounties=Count("bounties")).order_by("-created_at", "pk")
    page = page_of(request, lineages, PER_PAGE)
    status = 400 if form is not None and form.errors else 200
    return render(request, "bounty/lineage_list.html", {"page": page, "form": form}, status=status)


@require_GET
def lineage_detail(request: HttpRequest, name: str) -> HttpResponse:
    """One lineage: its tip, and every move that led there, each with the submission behind it."""
    lineage = get_object_or_404(Lineage, name=name)
    moves = sorted(history(lineage), key=lambda move: move.pk, reverse=True)
    page = page_of(request, moves, PER_PAGE)
    bounties = Bounty.objects.filter(lineage=lineage)
    context = {
        "lineage": lineage,
        "moves": with_submissions(list(page.object_list)),
        "page": page,
        "bounties": bounties[:PER_PAGE],
        "more_bounties": max(0, bounties.count() - PER_PAGE),
    }
    return render(request, "bounty/lineage_detail.html", context)


def with_submissions(moves: list[StateChange]) -> list[tuple[StateChange, Submission | None]]:
    """Each move with the submission that its reason names."""
    named = {move.pk: found[1] for move in moves if (found := SUBMISSION_ID.search(move.reason))}
    submissions = Submission.objects.select_related("submitter", "bounty").in_bulk(list(named.values()))
    by_id = {str(key): submission for key, submission in submissions.items()}
    return [(move, by_id.get(named.get(move.pk, ""))) for move in moves]
