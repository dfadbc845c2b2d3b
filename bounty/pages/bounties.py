"""Pages of bounties: the list, one with its leaderboard and submissions, opening and closing."""

import math
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from benchmarks.catalogue import SUITES
from bounty.models import Bounty, BountyState, Lineage, Submission
from bounty.pages.bugs import bug_view
from bounty.pages.forms import BountyForm
from bounty.rewards import award_microcredits
from bounty.services.bounties import available_escrow, close_bounty, open_bounty
from bounty.services.leaderboards import leaderboard
from bounty.services.series import measured_base, patch_base
from bounty.services.submissions import attempts_used
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.ledger.kinds import AccountKind
from gainshare.ledger.models import Account
from gainshare.ledger.services import totals
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
TEN_PER_CENT = math.floor(1_000_000 * math.log(1.1))  # log_ppm of an example gain


@dataclass(frozen=True, slots=True)
class BountyRow:
    """One bounty in the list."""

    bounty: Bounty
    suite_title: str
    available_microcredits: int
    example_microcredits: int
    submissions: int
    best_log_ppm: int | None


@require_GET
def bounty_list(request: HttpRequest) -> HttpResponse:
    """Every bounty, open ones first."""
    standing = Q(submissions__awards__state__in=["unvested", "vested"])
    bounties = (
        Bounty.objects.select_related("lineage")
        .annotate(
            n_submissions=Count("submissions", distinct=True),
            best_log_ppm=Max("submissions__awards__log_ppm_bound", filter=standing),
            is_open=Q(state=BountyState.OPEN),
        )
        .order_by("-is_open", "-created_at")
    )
    page = Paginator(bounties, PER_PAGE).get_page(request.GET.get("page"))
    listed: list[Any] = list(page.object_list)  # bounties with the annotations above
    available = escrow_available([bounty.escrow_reference for bounty in listed])
    rows = [
        BountyRow(
            bounty=bounty,
            suite_title=suite_title(bounty.suite),
            available_microcredits=available.get(bounty.escrow_reference, 0),
            example_microcredits=example_award(bounty),
            submissions=bounty.n_submissions,
            best_log_ppm=bounty.best_log_ppm,
        )
        for bounty in listed
    ]
    return render(request, "bounty/bounty_list.html", {"rows": rows, "page": page})


def escrow_available(references: list[str]) -> dict[str, int]:
    """Reference -> micro-credits that are neither paid nor reserved, for many escrows in one query."""
    accounts = Account.objects.filter(kind=AccountKind.ESCROW, reference__in=references)
    return {account.reference: account.available_microcredits for account in accounts}


def suite_title(name: str) -> str:
    """A suite's title; its name where the suite is no longer in the catalogue."""
    return SUITES[name].title if name in SUITES else name


def example_award(bounty: Bounty) -> int:
    """What a confirmed gain of 10 % earns, escrow permitting; of a bug all that it pays."""
    if bounty.award_microcredits is not None:
        return bounty.award_microcredits
    return award_microcredits(
        rate_microcredits_per_nat=bounty.rate_microcredits_per_nat, log_ppm=TEN_PER_CENT
    )


@require_GET
def bounty_detail(request: HttpRequest, bounty_id: UUID) -> HttpResponse:
    """What is measured and paid, who leads, and every submission."""
    bounty = get_object_or_404(Bounty.objects.select_related("lineage", "created_by"), pk=bounty_id)
    submissions = Submission.objects.filter(bounty=bounty).select_related("submitter")
    page = Paginator(submissions, PER_PAGE).get_page(request.GET.get("page"))
    attempts = attempts_used(bounty=bounty, person=request.user) if isinstance(request.user, User) else None
    context = {
        "bounty": bounty,
        "bug": bug_view(bounty) if bounty.is_for_a_bug else None,
        "suite": SUITES.get(bounty.suite),
        "preset": SUITES[bounty.suite].presets.get(bounty.preset) if bounty.suite in SUITES else None,
        "available": available_escrow(bounty),
        "example": example_award(bounty),
        "places": leaderboard(bounty=bounty),
        "page": page,
        "patch_base": patch_base(bounty=bounty),
        "measured_base": measured_base(bounty=bounty),
        "attempts": attempts,
        "takes_submissions": bounty.state == BountyState.OPEN and not bounty.is_past_deadline(timezone.now()),
    }
    return render(request, "bounty/bounty_detail.html", context)


@signed_in
@require_http_methods(["GET", "POST"])
def new_bounty(request: SignedInRequest) -> HttpResponse:
    """Open a bounty; its escrow is taken from the treasury."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only a maintainer opens a bounty. Ask one to give you that role.")
    form = BountyForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            bounty = open_bounty(actor=request.user, **form.terms())
        except DomainError as error:
            form.add_error(None, error.message)
        else:
            messages.success(request, "The bounty is open; its credits are in escrow.")
            return redirect("bounty", bounty_id=bounty.pk)
    context = {"form": form, "treasury": totals().treasury, "has_lineage": Lineage.objects.exists()}
    return render(request, "bounty/bounty_new.html", context, status=400 if form.errors else 200)


@signed_in
@require_POST
def close(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Close a bounty."""
    reason = request.POST.get("reason", "").strip() or "closed by a maintainer"
    try:
        close_bounty(bounty_id=bounty_id, reason=reason, actor=request.user)
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The bounty takes no more submissions.")
    return redirect("bounty", bounty_id=bounty_id)
