"""Pages of bounties: the list, one with its leaderboard and submissions, opening and closing."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from benchmarks.catalogue import SUITES
from bounty.errors import NoRunner, NotFound
from bounty.models import Bounty, BountyState, Lineage, Submission, SubmissionState
from bounty.pages.bug_forms import BugForm
from bounty.pages.bugs import bug_view
from bounty.pages.forms import BountyForm, MoreEscrowForm, TermsForm
from bounty.pages.pull_requests import pull_requests_of, repository_of
from bounty.pages.record_plot import record_of
from bounty.rewards import TEN_PER_CENT, award_microcredits
from bounty.services.bounties import add_funds, close_bounty, find_bounty, shown_escrow
from bounty.services.leaderboards import leaderboard, series_speeds
from bounty.services.reproductions import open_by_terms
from bounty.services.series.best import merged_best, patch_base
from bounty.services.submissions import attempts_used
from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.accounts.models import User
from gainshare.ledger.errors import InsufficientTreasury
from gainshare.ledger.services import totals
from gainshare.web.formatting import format_credits, in_credits
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
REJECTED_SHOWN = 50


@dataclass(frozen=True, slots=True)
class BountyRow:
    """One bounty in the list."""

    bounty: Bounty
    suite_title: str
    available_microcredits: int
    example_microcredits: int
    submissions: int
    reached_log_ppm: int | None


@require_GET
def bounty_list(request: HttpRequest) -> HttpResponse:
    """Every bounty, open ones first."""
    bounties = (
        Bounty.objects.select_related("lineage")
        .annotate(
            n_submissions=Count(
                "submissions", filter=~Q(submissions__state=SubmissionState.REJECTED), distinct=True
            ),
            is_open=Q(state=BountyState.OPEN),
        )
        .order_by("-is_open", "-created_at")
    )
    page = page_of(request, bounties, PER_PAGE)
    listed: list[Any] = list(page.object_list)  # bounties with the annotations above
    escrows = shown_escrow(listed)
    speeds = series_speeds(listed)
    rows = [
        BountyRow(
            bounty=bounty,
            suite_title=suite_title(bounty.suite),
            available_microcredits=escrows[bounty.pk].available,
            example_microcredits=example_award(bounty),
            submissions=bounty.n_submissions,
            reached_log_ppm=speeds[bounty.pk],
        )
        for bounty in listed
    ]
    return render(request, "bounty/bounty_list.html", {"rows": rows, "page": page})


def suite_title(name: str) -> str:
    """Title of a suite, or its name if the suite is no longer in the catalogue."""
    return SUITES[name].title if name in SUITES else name


def example_award(bounty: Bounty) -> int:
    """Award for a confirmed gain of 10 %, at most the escrow; for a bug its whole award."""
    if bounty.award_microcredits is not None:
        return bounty.award_microcredits
    return award_microcredits(
        rate_microcredits_per_nat=bounty.rate_microcredits_per_nat, log_ppm=TEN_PER_CENT
    )


@require_GET
def bounty_detail(request: HttpRequest, bounty_id: UUID) -> HttpResponse:
    """Page of a bounty: terms, leaderboard and submissions."""
    return bounty_page(request, bounty_id)


@require_GET
def bounty_by_number(request: HttpRequest, number: str) -> HttpResponse:
    """Redirect `/bounties/B12/` to the bounty's page; an unknown number gets the list with the reason."""
    try:
        return redirect("bounty", bounty_id=find_bounty(number).pk)
    except NotFound as error:
        messages.error(request, error.message)
        response = bounty_list(request)
        response.status_code = error.status
        return response


def bounty_page(
    request: HttpRequest,
    bounty_id: UUID,
    refused: Refused | None = None,
    more: MoreEscrowForm | None = None,
) -> HttpResponse:
    """Page of a bounty, with the typed text of an action that was refused."""
    bounty = get_object_or_404(Bounty.objects.select_related("lineage", "created_by"), pk=bounty_id)
    submissions = (
        Submission.objects.filter(bounty=bounty)
        .select_related("submitter", "bounty")
        .prefetch_related("disputes")
    )
    rejected = submissions.filter(state=SubmissionState.REJECTED)
    taken = submissions.exclude(state=SubmissionState.REJECTED)
    page = page_of(request, taken, PER_PAGE)
    attempts = attempts_used(bounty=bounty, person=request.user) if isinstance(request.user, User) else None
    places = leaderboard(bounty=bounty)
    context = {
        "bounty": bounty,
        "bug": bug_view(bounty, request.user) if bounty.is_for_a_bug else None,
        "suite": SUITES.get(bounty.suite),
        "preset": SUITES[bounty.suite].presets.get(bounty.preset) if bounty.suite in SUITES else None,
        "available": shown_escrow([bounty])[bounty.pk].available,
        "example": example_award(bounty),
        "places": places,
        "record": record_of(places),
        "page": page,
        "pull_requests": pull_requests_of(bounty),
        "connected": repository_of(bounty),
        "rejected": rejected[:REJECTED_SHOWN],
        "n_rejected": rejected.count(),
        "patch_base": patch_base(bounty=bounty),
        "merged_best": merged_best(bounty=bounty),
        "attempts": attempts,
        "takes_submissions": bounty.state == BountyState.OPEN and not bounty.is_past_deadline(timezone.now()),
        "takes_reproductions": bounty.state != BountyState.CLOSED
        and not bounty.is_past_deadline(timezone.now()),
        "refused": refused,
        "more": more or MoreEscrowForm(),
    }
    return render(
        request,
        "bounty/bounty_detail.html",
        context,
        status=409 if refused or (more and more.errors) else 200,
    )


@signed_in
@require_http_methods(["GET", "POST"])
def new_bounty(request: SignedInRequest) -> HttpResponse:
    """Open a bounty for gains; its escrow is taken from the treasury."""
    return opening(request, BountyForm)


@signed_in
@require_http_methods(["GET", "POST"])
def new_bug(request: SignedInRequest) -> HttpResponse:
    """Open a bounty for a bug, with or without a reproduction."""
    return opening(request, BugForm)


def opening(request: SignedInRequest, form_class: type[TermsForm]) -> HttpResponse:
    """Show and process the form for a new bounty."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can open a bounty. Ask a maintainer to give you that role.")
    form = form_class(request.POST, request.FILES) if request.method == "POST" else form_class()
    treasury = totals().treasury
    if form.is_valid() and not form.must_ask(available=treasury) and (made := opened(form, request.user)):
        messages.success(
            request,
            f"The bounty is open; its {format_credits(form.moved())} credits ({form.moved():,} micro-credits) are in "
            "escrow.",
        )
        return redirect("bounty", bounty_id=made)
    context = {
        "form": form,
        "for_a_bug": form_class is BugForm,
        "treasury": treasury,
        "has_lineage": Lineage.objects.exists(),
    }
    return render(request, "bounty/bounty_new.html", context, status=400 if form.errors else 200)


def opened(form: TermsForm, actor: User) -> str | None:
    """Open the bounty of a valid form, once, and return its id. If refused: None, with the reason in the form."""
    try:
        return form.made_once(
            user=actor, what="bounty", make=lambda: str(open_by_terms(actor=actor, **form.terms()).pk)
        )
    except IdConflict:
        refuse_resent(form, "call_id")
    except NoRunner as error:
        form.ask_about_runner(error.message)
    except InsufficientTreasury as error:
        form.add_error("escrow", in_credits(error.message))
    except DomainError as error:
        form.add_error(None, error.message)
    return None


@signed_in
def add_escrow(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Add credits to a bounty's escrow; an exhausted bounty opens again."""
    if request.method != "POST":
        return redirect("bounty", bounty_id=bounty_id)
    form = MoreEscrowForm(request.POST)
    if form.is_valid() and not form.must_ask(available=totals().treasury):
        data = form.cleaned_data
        try:
            add_funds(
                actor=request.user,
                bounty_id=bounty_id,
                transfer_id=data["transfer_id"],
                amount_microcredits=data["amount"],
            )
        except IdConflict:
            refuse_resent(form, "transfer_id")
        except DomainError as error:
            form.add_error("amount", in_credits(error.message))
        else:
            amount = data["amount"]
            added = f"{format_credits(amount)} credits were added to the escrow ({amount:,} micro-credits)."
            messages.success(request, added)
            return redirect("bounty", bounty_id=bounty_id)
    return bounty_page(request, bounty_id, more=form)


@signed_in
def close(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Close a bounty."""
    if request.method != "POST":
        return redirect("bounty", bounty_id=bounty_id)
    reason = typed_text(request)
    try:
        close_bounty(bounty_id=bounty_id, reason=reason or "closed by a maintainer", actor=request.user)
    except DomainError as error:
        return bounty_page(request, bounty_id, Refused("close", reason, error.message))
    messages.success(request, "The bounty is closed and takes no more submissions.")
    return redirect("bounty", bounty_id=bounty_id)
