"""Pages of submissions: sending a diff in, following it while it is judged, reading its verdict."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from benchmarks.trees import TreeError
from bounty.errors import NotFound
from bounty.models import Award, Bounty, BountyState, Run, RunKind, Submission, SubmissionState
from bounty.pages.actions import ACTIONS, allowed_actions, perform
from bounty.pages.bugs import shares_of, trials_of
from bounty.pages.counting import counted_by
from bounty.pages.forms import DiffForm
from bounty.pages.pair_plot import PairPoint, plot_pairs
from bounty.pages.progress import progress_of
from bounty.services.awards import standing_award
from bounty.services.logs import submission_log
from bounty.services.rechecks import Check, check_of
from bounty.services.series import patch_base
from bounty.services.submissions import attempts_used, find_submission, submit
from bounty.services.transitions import history
from bounty.services.trees import blob_store
from gainshare.accounts.errors import DomainError
from gainshare.web.signed_in import SignedInRequest, signed_in
from gainshare.web.typed import Refused, typed_text

PER_PAGE = 50
SHOWN_DIFF_LINES = 400


@signed_in
@require_http_methods(["GET", "POST"])
def new_submission(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Paste or upload a diff. What is wrong with it is a verdict on the page that follows."""
    bounty = get_object_or_404(Bounty.objects.select_related("lineage"), pk=bounty_id)
    form = DiffForm(request.POST, request.FILES) if request.method == "POST" else DiffForm()
    if request.method == "POST" and form.is_valid():
        try:
            submission = submit(actor=request.user, bounty_id=bounty.pk, diff=form.cleaned_data["diff"])
        except DomainError as error:
            form.add_error(None, error.message)
        else:
            return redirect("submission", submission_id=submission.pk)
    context = {
        "form": form,
        "bounty": bounty,
        "patch_base": patch_base(bounty=bounty),
        "attempts": attempts_used(bounty=bounty, person=request.user),
        "takes_submissions": bounty.state == BountyState.OPEN and not bounty.is_past_deadline(timezone.now()),
    }
    return render(request, "bounty/submission_new.html", context, status=400 if form.errors else 200)


@signed_in
@require_GET
def own_submissions(request: SignedInRequest) -> HttpResponse:
    """The user's submissions, newest first."""
    own = Submission.objects.filter(submitter=request.user).select_related("bounty")
    page = Paginator(own, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "bounty/submission_list.html", {"page": page})


def submission_or_404(submission_id: UUID) -> Submission:
    try:
        return find_submission(submission_id)
    except NotFound as error:
        raise Http404(error.message) from None


@require_GET
def submission_detail(request: HttpRequest, submission_id: UUID) -> HttpResponse:
    """State and progress, verdict with its reason, samples, evidence, log, history, diff."""
    return submission_page(request, submission_id)


@signed_in
def act(request: SignedInRequest, submission_id: UUID, action: str) -> HttpResponse:
    """Do one action, say how it went, go back to the submission."""
    if action not in ACTIONS:
        raise Http404("There is no such action.")
    if request.method == "POST":
        text = typed_text(request)
        try:
            messages.success(request, perform(request.user, submission_id, action, text))
        except DomainError as error:
            if text:
                return submission_page(request, submission_id, Refused(action, text, error.message))
            messages.error(request, error.message)
    return redirect("submission", submission_id=submission_id)


def submission_page(
    request: HttpRequest, submission_id: UUID, refused: Refused | None = None
) -> HttpResponse:
    """A submission's page; with what was typed into the form of an action, when that was refused."""
    submission = submission_or_404(submission_id)
    award = standing_award(submission)
    context = {
        "submission": submission,
        "bounty": submission.bounty,
        "progress": progress_of(submission),
        "check": shown_check(submission, award),
        "disputes": submission.disputes.select_related("author", "answered_by", "run"),
        "runs": [run_view(run) for run in runs_of(submission)],
        "shares": shares_of(submission),
        "award": award if award is not None and award.amount_microcredits else None,
        "reviews": submission.reviews.select_related("reviewer"),
        "changes": history(submission),
        "log": submission_log(submission=submission, offset=0),
        "diff": shown_diff(submission),
        "actions": allowed_actions(submission, request.user),
        "refused": refused,
    }
    return render(request, "bounty/submission_detail.html", context, status=409 if refused else 200)


def shown_check(submission: Submission, award: Award | None) -> Check | None:
    """The random re-measurement that reviewers should know of; while it is priced anew there is none."""
    if award is None or submission.state == SubmissionState.CONFIRMING:
        return None
    check = check_of(award)
    is_the_verdict = check is not None and check.run.pk == submission.verdict_run_id
    return None if is_the_verdict else check


@never_cache
@require_GET
def live(request: HttpRequest, submission_id: UUID) -> HttpResponse:
    """What changes while the judge works, as JSON: progress, and the log from `offset` on."""
    submission = submission_or_404(submission_id)
    raw = request.GET.get("offset", "0")
    if not raw.isascii() or not raw.isdigit() or len(raw) > 10:
        return JsonResponse(
            {"error": {"code": "invalid", "message": "offset is a whole number from 0 on."}}, status=400
        )
    page = submission_log(submission=submission, offset=int(raw))
    return JsonResponse({**asdict(progress_of(submission)), "log": asdict(page)})


def runs_of(submission: Submission) -> list[Run]:
    """The submission's runs, oldest first, with verdicts, evidence and runners loaded."""
    return list(submission.runs.select_related("verdict__evidence", "runner").order_by("queued_at"))


def run_view(run: Run) -> dict[str, Any]:
    """A run with its plot. Its figures are there once it has its verdict, never before."""
    verdict = getattr(run, "verdict", None)
    evidence = verdict.evidence if verdict is not None else None
    plot = ""
    if verdict is not None and evidence is not None and run.kind != RunKind.FIX:
        bound = None if verdict.log_ppm_bound is None else verdict.log_ppm_bound / 1e6
        plot = plot_pairs(points_of(evidence.samples), bound=bound, title=run.get_kind_display())
    return {
        "run": run,
        "verdict": verdict,
        "evidence": evidence,
        "counted_by": {} if evidence is None else counted_by(evidence),
        "plot": plot,
        "trials": trials_of(run),
    }


def points_of(samples: list[dict[str, Any]]) -> list[PairPoint]:
    """The evidence's samples as points of the plot."""
    return [
        PairPoint(int(row["index"]), int(row["log_ratio_ppb"]) / 1e9, bool(row["control"])) for row in samples
    ]


def shown_diff(submission: Submission) -> list[tuple[str, str]] | None:
    """The diff's first lines, each with what it is; None where it was too large to be kept."""
    try:
        text = blob_store().get(submission.diff_blob).decode("utf-8", "replace")
    except TreeError:
        return None
    lines = text.splitlines()
    shown = [(line_kind(line), line) for line in lines[:SHOWN_DIFF_LINES]]
    if len(lines) > SHOWN_DIFF_LINES:
        shown.append(("more", f"… {len(lines) - SHOWN_DIFF_LINES} more lines"))
    return shown


def line_kind(line: str) -> str:
    """`add`, `del`, `hunk`, `file` or `same`."""
    if line.startswith(("+++", "---", "diff ", "index ")):
        return "file"
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same")
