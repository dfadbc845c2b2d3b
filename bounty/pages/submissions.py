"""Pages of submissions: submitting a diff, following its judging, reading its verdict."""

from collections.abc import Mapping
from dataclasses import asdict
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from benchmarks.patch.trees import TreeError
from bounty.errors import AlreadyJudged, AlreadySubmitted, NotFound
from bounty.models import Award, Bounty, BountyState, Submission, SubmissionState
from bounty.pages.actions import ACTIONS, allowed_actions, perform
from bounty.pages.bugs import shares_of
from bounty.pages.forms import DiffForm
from bounty.pages.progress import progress_of
from bounty.pages.run_views import run_views
from bounty.pages.stage_bar import stage_bar
from bounty.services.access import sees
from bounty.services.awards.lifecycle import standing_award, standing_awards
from bounty.services.awards.repricing import supplements_of
from bounty.services.course import shown_history, shown_state
from bounty.services.royalties.laws import in_words, law_at
from bounty.services.runs.logs import submission_log
from bounty.services.runs.rechecks import Check, check_of
from bounty.services.series.best import patch_base
from bounty.services.series.sealed_order import order_of
from bounty.services.submissions import attempts_used, find_submission, submit
from bounty.services.trees import blob_store
from bounty.services.tries import spend_again
from bounty.visibility import Part, without_figures
from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.web.forms.sent_once import refuse_resent
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50


@signed_in
@require_http_methods(["GET", "POST"])
def new_submission(request: SignedInRequest, bounty_id: UUID) -> HttpResponse:
    """Page to paste or upload a diff. Errors in the diff become a verdict on the submission's page."""
    bounty = get_object_or_404(Bounty.objects.select_related("lineage"), pk=bounty_id)
    form = DiffForm(request.POST, request.FILES) if request.method == "POST" else DiffForm()
    refusal: DomainError | None = None
    if form.is_valid():
        diff = form.cleaned_data["diff"]
        try:
            made = form.made_once(
                user=request.user,
                what="submission",
                of=bounty.pk,
                make=lambda: str(submit(actor=request.user, bounty_id=bounty.pk, diff=diff).pk),
            )
            return redirect("submission", submission_id=made)
        except IdConflict:
            refuse_resent(form, "call_id")
        except DomainError as error:
            if form.is_undone_by_errors and isinstance(error, AlreadySubmitted | AlreadyJudged):
                spend_again(request.user)  # the try that the rolled-back transaction had spent
            refusal = error
            form.add_error(None, error.message)
    context = {
        "form": form,
        "bounty": bounty,
        "patch_base": patch_base(bounty=bounty),
        "law_words": in_words(law_at(bounty.lineage_id, timezone.now())),
        "attempts": attempts_used(bounty=bounty, person=request.user),
        "takes_submissions": bounty.state == BountyState.OPEN and not bounty.is_past_deadline(timezone.now()),
    }
    response = render(request, "bounty/submission_new.html", context, status=400 if form.errors else 200)
    if refusal is not None and refusal.status == 429:
        response.status_code = refusal.status
        for name, value in refusal.headers.items():
            response[name] = value
    return response


@signed_in
@require_GET
def own_submissions(request: SignedInRequest) -> HttpResponse:
    """The user's submissions, newest first."""
    own = (
        Submission.objects.filter(submitter=request.user)
        .select_related("bounty")
        .prefetch_related("disputes")
    )
    page = page_of(request, own, PER_PAGE)
    return render(request, "bounty/submission_list.html", {"page": page})


def submission_or_404(submission_id: UUID) -> Submission:
    try:
        return find_submission(submission_id)
    except NotFound as error:
        raise Http404(error.message) from None


@require_GET
def submission_detail(request: HttpRequest, submission_id: UUID) -> HttpResponse:
    """Page of a submission: progress, verdict, samples, evidence, log, history, diff."""
    return submission_page(request, submission_id)


@signed_in
def act(request: SignedInRequest, submission_id: UUID, action: str) -> HttpResponse:
    """Do one action, add a message, and redirect to the submission."""
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
    """Page of a submission, with the typed text of an action that was refused."""
    submission = submission_or_404(submission_id)
    changes = shown_history(submission, request.user)
    seen = {part: sees(request.user, part, submission) for part in Part}
    runs = run_views(submission) if seen[Part.FIGURES] else []
    context = {
        "submission": submission,
        "state": shown_state(submission, request.user),
        "sees_source": seen[Part.SOURCE],
        "sees_figures": seen[Part.FIGURES],
        "verdict_reason": shown_reason(submission, seen),
        "bounty": submission.bounty,
        "progress": progress_of(submission, request.user),
        "order": order_of(submission),
        "check": shown_check(submission, standing_award(submission)) if seen[Part.FIGURES] else None,
        "disputes": submission.disputes.select_related("author", "answered_by", "run"),
        "stages": stage_bar(
            submission, views=runs, awards=list(standing_awards(submission)), changes=changes
        ),
        "runs": runs,
        "shares": shares_of(submission) if seen[Part.FIGURES] else [],
        "supplements": supplements_of(submission) if seen[Part.FIGURES] else [],
        "reviews": submission.reviews.select_related("reviewer"),
        "changes": changes,
        "log": submission_log(submission=submission, offset=0, with_sealed=seen[Part.FIGURES])
        if seen[Part.SOURCE]
        else None,
        "diff": shown_diff(submission) if seen[Part.SOURCE] else None,
        "actions": allowed_actions(submission, request.user),
        "refused": refused,
    }
    return render(request, "bounty/submission_detail.html", context, status=409 if refused else 200)


def shown_reason(submission: Submission, seen: Mapping[Part, bool]) -> str:
    """The verdict's reason as far as it may be told; empty where the verdict itself may not."""
    if not submission.has_verdict or not seen[Part.VERDICT]:
        return ""
    reason = submission.verdict_reason
    return reason if seen[Part.FIGURES] else without_figures(reason) or "A maintainer will check it."


def shown_check(submission: Submission, award: Award | None) -> Check | None:
    """The random re-measurement, for reviewers; None while the gain is priced again."""
    if award is None or submission.state == SubmissionState.CONFIRMING:
        return None
    check = check_of(award)
    is_the_verdict = check is not None and check.run.pk == submission.verdict_run_id
    return None if is_the_verdict else check


@never_cache
@require_GET
def live(request: HttpRequest, submission_id: UUID) -> HttpResponse:
    """JSON for the live view: progress, and the log from `offset`."""
    submission = submission_or_404(submission_id)
    raw = request.GET.get("offset", "0")
    if not raw.isascii() or not raw.isdigit() or len(raw) > 10:
        return JsonResponse(
            {"error": {"code": "invalid", "message": "offset must be a non-negative whole number."}},
            status=400,
        )
    log = None
    if sees(request.user, Part.SOURCE, submission):
        with_sealed = sees(request.user, Part.FIGURES, submission)
        log = asdict(submission_log(submission=submission, offset=int(raw), with_sealed=with_sealed))
    return JsonResponse({**asdict(progress_of(submission, request.user)), "log": log})


def shown_diff(submission: Submission) -> list[tuple[str, str]] | None:
    """All lines of the diff with their kinds, or None if it was too large to store."""
    try:
        text = blob_store().get(submission.diff_blob).decode("utf-8", "replace")
    except TreeError:
        return None
    return [(line_kind(line), line) for line in text.removesuffix("\n").split("\n")]


def line_kind(line: str) -> str:
    """`add`, `del`, `hunk`, `file` or `same`."""
    if line.startswith(("+++", "---", "diff ", "index ")):
        return "file"
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same")
