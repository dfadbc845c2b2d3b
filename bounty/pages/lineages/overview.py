"""Pages of lineages: lines of trees that grow by merging measured patches."""

import re
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from bounty.errors import NotFound
from bounty.github.merging.reversals import open_reversals
from bounty.models import (
    AutomaticDeploy,
    Bounty,
    Lineage,
    RepositoryBinding,
    Repricing,
    SlowBase,
    SlowBaseState,
    StateChange,
    Submission,
)
from bounty.pages.forms import LineageForm
from bounty.pages.lineages.deployment_forms import DeployForm, deploy_form
from bounty.pages.lineages.law_forms import LawForm, law_form, present_law
from bounty.pages.lineages.repository_connections import connection_of
from bounty.pages.lineages.repository_forms import ConnectForm, RepositoryForm, connect_form, repository_form
from bounty.services.awards.repricing import shown_repricings
from bounty.services.renewal import outdated_lineages
from bounty.services.royalties.laws import in_words
from bounty.services.series.base_stops import release_lineage, standing_stops
from bounty.services.series.slow_bases import ANSWERS, decide_slow_base, slow_bases
from bounty.services.series.tip_checks import newest_checks
from bounty.services.transitions import history
from bounty.services.trees import start_lineage
from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.accounts.models import User
from gainshare.capacity.models import Deployment
from gainshare.web.banners import Banner
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
SHOWN_NAMES = 3  # in the banner
SHOWN_DEPLOYMENTS = 10
SUBMISSION_ID = re.compile(r"submission ([0-9a-f-]{36})")


def outdated_banners() -> list[Banner]:
    """Banner while lineages wait to be renewed: what is not judged, why, and what a maintainer has to do."""
    names = [lineage.name for lineage in outdated_lineages()]
    if not names:
        return []
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    text = (
        f"Nothing is judged in the lineages {', '.join(names[:SHOWN_NAMES])}{more}: their trees have the "
        "file layout of an older version, which the judge cannot measure. A maintainer has to renew them "
        "with `gainshare lineages renew`."
    )
    return [Banner(text, reverse("lineages"))]


def base_banners() -> list[Banner]:
    """One banner for each lineage whose base tree fails on its own."""
    return [
        Banner(
            f"Nothing is judged in the lineage {stop.lineage.name}: its base tree fails on its own. A maintainer has "
            "to look at it.",
            reverse("lineage", args=[stop.lineage.name]),
        )
        for stop in standing_stops()
    ]


@require_http_methods(["GET", "POST"])
def lineage_list(request: HttpRequest) -> HttpResponse:
    """Page of all lineages, with a form for maintainers that starts a new one."""
    maintainer = request.user if isinstance(request.user, User) and request.user.is_maintainer else None
    form = None
    if request.method == "POST":
        if maintainer is None:
            raise PermissionDenied(
                "Only maintainers can start a lineage. Ask a maintainer to give you that role."
            )
        form = LineageForm(request.POST, request.FILES)
        if form.is_valid() and (name := started(form, maintainer)):
            messages.success(request, f"The lineage {name} has started.")
            return redirect("lineage", name=name)
    elif maintainer is not None:
        form = LineageForm()
    lineages = Lineage.objects.annotate(n_bounties=Count("bounties")).order_by("-created_at", "pk")
    page = page_of(request, lineages, PER_PAGE)
    status = 400 if form is not None and form.errors else 200
    return render(request, "bounty/lineage_list.html", {"page": page, "form": form}, status=status)


def started(form: LineageForm, actor: User) -> str | None:
    """Start the lineage of a valid form and return its name. If refused: None, with the reason in the form."""
    data = form.cleaned_data
    try:
        return form.made_once(
            user=actor,
            what="lineage",
            make=lambda: (
                start_lineage(
                    actor=actor,
                    name=data["name"],
                    base_tree=data["base_tree"],
                    diff=data["diff"],
                    is_demo=data["is_demo"],
                ).name
            ),
        )
    except IdConflict:
        refuse_resent(form, "call_id")
    except DomainError as error:
        form.add_error(None, error.message)
    return None


@require_GET
def lineage_detail(request: HttpRequest, name: str) -> HttpResponse:
    """Page of a lineage: its tip, and every move of the tip with its submission."""
    return lineage_page(request, name)


@signed_in
def release(request: SignedInRequest, name: str) -> HttpResponse:
    """Release a lineage that was stopped, and redirect to its page."""
    if request.method != "POST":
        return redirect("lineage", name=name)
    reason = typed_text(request)
    try:
        release_lineage(actor=request.user, name=name, reason=reason)
    except DomainError as error:
        return lineage_page(request, name, Refused("release", reason, error.message))
    messages.success(request, f"The lineage {name} is released.")
    return redirect("lineage", name=name)


@signed_in
def decide_base(request: SignedInRequest, name: str, slow_base_id: UUID, answer: str) -> HttpResponse:
    """Decide whether a base kept its gain or is slow, and redirect to the lineage's page."""
    if answer not in ANSWERS:
        raise Http404("There is no such answer.")
    if request.method != "POST":
        return redirect("lineage", name=name)
    reason = typed_text(request)
    try:
        decide_slow_base(actor=request.user, slow_base_id=slow_base_id, answer=answer, text=reason)
    except NotFound as error:
        raise Http404(error.message) from None
    except DomainError as error:
        return lineage_page(request, name, Refused(f"base-{answer}", reason, error.message))
    messages.success(request, "Your decision was recorded. Submissions that waited for it are judged again.")
    return redirect("lineage", name=name)


def lineage_page(
    request: HttpRequest,
    name: str,
    refused: Refused | None = None,
    binding: RepositoryForm | None = None,
    connecting: ConnectForm | None = None,
    deploying: DeployForm | None = None,
    law: LawForm | None = None,
) -> HttpResponse:
    """The lineage's page, with the typed text of an action that was refused."""
    lineage = get_object_or_404(Lineage, name=name)
    moves = sorted(history(lineage), key=lambda move: move.pk, reverse=True)
    page = page_of(request, moves, PER_PAGE)
    bounties = Bounty.objects.filter(lineage=lineage)
    repository = RepositoryBinding.objects.filter(lineage=lineage).first()
    may_change = isinstance(request.user, User) and request.user.is_maintainer
    present = present_law(lineage)
    context = {
        "lineage": lineage,
        "law_words": in_words(present),
        "laws": lineage.laws.select_related("actor")[:SHOWN_NAMES],
        "law_form": (law or law_form(present)) if may_change else None,
        "moves": with_submissions(list(page.object_list)),
        "page": page,
        "bounties": bounties[:PER_PAGE],
        "more_bounties": max(0, bounties.count() - PER_PAGE),
        "stop": lineage.standing_stop,
        "lost_tip": lineage.standing_repository_stop,
        "repository": repository,
        "binding": binding or repository_form(lineage),
        "github": connection_of(repository),
        "connecting": connecting or connect_form(repository),
        "deployments": newest_deployments(lineage),
        "deploying": deploying or deploy_form(lineage),
        "automatic": AutomaticDeploy.objects.filter(lineage=lineage).first(),
        "slow_base": open_slow_base(lineage),
        "reversal": open_reversals().filter(lineage=lineage).first(),
        "checks": newest_checks(lineage),
        "repricings": newest_repricings(lineage),
        "may_release": may_change,
        "refused": refused,
    }
    has_errors = any(form is not None for form in (binding, connecting, deploying, law))
    status = 409 if refused else 400 if has_errors else 200
    return render(request, "bounty/lineage_detail.html", context, status=status)


def newest_deployments(lineage: Lineage) -> list[Deployment]:
    """The newest deployment of a tip of the lineage for each model."""
    rows = Deployment.objects.filter(lineage=lineage.name).order_by("model", "-created_at")
    return list(rows.distinct("model")[:SHOWN_DEPLOYMENTS])


def open_slow_base(lineage: Lineage) -> SlowBase | None:
    """The oldest finding about a base that waits for a maintainer."""
    found = slow_bases().filter(award__submission__bounty__lineage=lineage, state=SlowBaseState.OPEN)
    return found.order_by("created_at").first()


def newest_repricings(lineage: Lineage) -> list[Repricing]:
    """The newest prices that are, or were, due again because a base of the lineage proved slow."""
    rows = Repricing.objects.filter(slow_award__submission__bounty__lineage=lineage)
    return shown_repricings(rows.order_by("-created_at", "place")[:PER_PAGE])


def with_submissions(moves: list[StateChange]) -> list[tuple[StateChange, Submission | None]]:
    """Each move with the submission that its reason names."""
    named = {move.pk: found[1] for move in moves if (found := SUBMISSION_ID.search(move.reason))}
    submissions = Submission.objects.select_related("submitter", "bounty").in_bulk(list(named.values()))
    by_id = {str(key): submission for key, submission in submissions.items()}
    return [(move, by_id.get(named.get(move.pk, ""))) for move in moves]
