"""The maintainer's to-do page: reviews, merges, doubtful verdicts, disputes, quarantined runners."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet, Value
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from benchmarks.judging.verdicts import VerdictKind
from bounty.github.merging.reversals import open_reversals
from bounty.models import (
    Dispute,
    DisputeState,
    QuarantineCause,
    RepositoryBinding,
    RepositoryStop,
    Reversal,
    Runner,
    SlowBase,
    SlowBaseState,
    Submission,
    SubmissionState,
)
from bounty.services.disputes import disputes
from bounty.services.reviews import JUDGED_AGAIN
from bounty.services.series.slow_bases import slow_bases
from bounty.services.trees import of_older_layout
from gainshare.accounts.models import User
from gainshare.web.signed_in import SignedInRequest, signed_in

SHOWN = 50  # rows of each kind, the oldest first
S = SubmissionState


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of a list. `state` is shown as a badge."""

    url: str
    title: str
    who: str
    state: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task: its query, the oldest first, and the function that makes a row of the page."""

    title: str
    what_to_do: str
    found: QuerySet[Any]
    as_waiting: Callable[[Any], Waiting]


@dataclass(frozen=True, slots=True)
class TaskList:
    """Open tasks of one kind, the oldest first; `rows` has at most `SHOWN` of `total`."""

    title: str
    what_to_do: str
    rows: list[Waiting]
    total: int


@signed_in
@require_GET
def desk(request: SignedInRequest) -> HttpResponse:
    """Page of all open tasks of this maintainer, one list per kind; empty lists are left out."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers have a to-do page. Ask a maintainer to give you that role.")
    lists = [tasks for tasks in map(_task_list, kinds_for(request.user)) if tasks.total]
    return render(request, "bounty/desk.html", {"lists": lists, "shown": SHOWN})


def n_waiting(user: User) -> int:
    """Number of open tasks of this maintainer, by one query over all kinds."""
    first, *others = (
        kind.found.order_by().annotate(task=Value(1)).values("task") for kind in kinds_for(user)
    )
    waiting: int = first.union(*others, all=True).count()
    return waiting


def kinds_for(user: User) -> list[Kind]:
    """All kinds of tasks. A person's own patches and disputes are left out, because others decide about them."""
    submissions = Submission.objects.select_related("bounty", "submitter").order_by("sealed_at", "pk")
    others = submissions.exclude(submitter=user)
    unreviewed = others.filter(state=S.CONFIRMED).exclude(reviews__reviewer=user)
    ready = submissions.filter(Q(state=S.ACCEPTED) | Q(state=S.VESTED, merged_at=None))
    doubtful = others.filter(state=S.JUDGED, verdict_kind__in=JUDGED_AGAIN)
    # Trees of an older layout are neither merged (their awards vest on acceptance) nor judged again.
    ready = ready.exclude(base_tree__in=_old_bases(ready))
    failed = Q(verdict_kind=VerdictKind.INFRASTRUCTURE_ERROR.value)
    doubtful = doubtful.exclude(failed & Q(base_tree__in=_old_bases(doubtful)))
    objections = disputes(state=DisputeState.OPEN).exclude(author=user).order_by("created_at")
    in_doubt = slow_bases().filter(state=SlowBaseState.OPEN).exclude(award__submission__submitter=user)
    ill = Runner.objects.exclude(quarantine_cause=QuarantineCause.NONE).order_by("quarantined_at", "name")
    return [
        Kind("To review", "Read the patch, then accept or decline it.", unreviewed, _submission),
        Kind("To merge", "Merge it: this pays the award.", ready, _submission),
        Kind("Open disputes", "Answer the author: uphold, measure again, or overturn.", objections, _dispute),
        Kind("Verdicts to check", "Judge it again, or decline it.", doubtful, _submission),
        Kind(
            "Bases in doubt",
            "Decide whether the base kept its gain. Merges of its lineage wait.",
            in_doubt.exclude(run__submission__submitter=user).order_by("created_at"),
            _base,
        ),
        Kind(
            "Branches that lost the tip",
            "Push the lost commit back, or release the lineage. Its merges are stopped.",
            RepositoryStop.objects.filter(released_at=None).select_related("lineage").order_by("stopped_at"),
            _lost_tip,
        ),
        Kind(
            "Branches that took a gain back",
            "Decide about the award on the lineage's page. The tip waits.",
            open_reversals().exclude(submission__submitter=user),
            _reversal,
        ),
        Kind(
            "Branches that are not followed",
            "Read why on the lineage's page, and change the branch or the binding.",
            RepositoryBinding.objects.exclude(problem="").select_related("lineage").order_by("checked_at"),
            _not_followed,
        ),
        Kind("Runners in quarantine", "Find out what changed, then release the runner.", ill, _runner),
    ]


def _old_bases(found: QuerySet[Submission]) -> list[str]:
    return of_older_layout(found.order_by().values_list("base_tree", flat=True))


def _task_list(kind: Kind) -> TaskList:
    rows = [kind.as_waiting(row) for row in kind.found[:SHOWN]]
    return TaskList(kind.title, kind.what_to_do, rows, kind.found.count())


def _submission(row: Submission) -> Waiting:
    url = reverse("submission", args=[row.pk])
    state = row.verdict_kind if row.state == S.JUDGED else row.state
    return Waiting(url, row.bounty.title, row.submitter.username, state, row.sealed_at)


def _dispute(row: Dispute) -> Waiting:
    url = f"{reverse('submission', args=[row.submission_id])}#disputes"
    return Waiting(url, row.submission.bounty.title, row.author.username, row.verdict_kind, row.created_at)


def _base(row: SlowBase) -> Waiting:
    lineage, paid = row.award.submission.bounty.lineage, row.award.submission
    url = f"{reverse('lineage', args=[lineage.name])}#slow-base"
    return Waiting(url, lineage.name, paid.submitter.username, row.state, row.created_at)


def _lost_tip(row: RepositoryStop) -> Waiting:
    url = f"{reverse('lineage', args=[row.lineage.name])}#lost-tip"
    return Waiting(url, row.lineage.name, "a push", "stopped", row.stopped_at)


def _reversal(row: Reversal) -> Waiting:
    url = f"{reverse('lineage', args=[row.lineage.name])}#reversal"
    return Waiting(url, row.lineage.name, row.submission.submitter.username, row.kind, row.created_at)


def _not_followed(row: RepositoryBinding) -> Waiting:
    url = f"{reverse('lineage', args=[row.lineage.name])}#repository"
    return Waiting(url, row.lineage.name, row.branch, "not followed", row.checked_at)


def _runner(row: Runner) -> Waiting:
    cause = row.get_quarantine_cause_display()
    return Waiting(reverse("runner", args=[row.name]), row.name, cause, row.state, row.quarantined_at)
