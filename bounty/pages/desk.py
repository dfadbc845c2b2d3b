"""What waits for a maintainer: reviews, merges, doubtful verdicts, disputes, runners in quarantine."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import Dispute, DisputeState, QuarantineCause, Runner, Submission, SubmissionState
from bounty.services.disputes import disputes
from bounty.services.reviews import JUDGED_AGAIN
from bounty.services.trees import of_older_layout
from gainshare.accounts.models import User
from gainshare.web.signed_in import SignedInRequest, signed_in

SHOWN = 50  # of each kind; whoever decides about the oldest ones sees the next
S = SubmissionState


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that waits. `state` is shown as a badge."""

    url: str
    title: str
    who: str
    state: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Things of one kind that may wait: the rows of the database, the oldest first, and how one is shown."""

    title: str
    what_to_do: str
    found: QuerySet[Any]
    as_waiting: Callable[[Any], Waiting]


@dataclass(frozen=True, slots=True)
class Pile:
    """Things of one kind that wait, the oldest first; at most `SHOWN` of `total` are in `rows`."""

    title: str
    what_to_do: str
    rows: list[Waiting]
    total: int


@signed_in
@require_GET
def desk(request: SignedInRequest) -> HttpResponse:
    """Everything that waits for this maintainer, in piles; empty piles are left out."""
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers have a desk. Ask one to give you that role.")
    piles = [pile for pile in map(_pile, kinds_for(request.user)) if pile.total]
    return render(request, "bounty/desk.html", {"piles": piles, "shown": SHOWN})


def n_waiting(user: User) -> int:
    """How many things are on the maintainer's desk."""
    return sum(kind.found.count() for kind in kinds_for(user))


def kinds_for(user: User) -> list[Kind]:
    """Every kind of thing that may wait. What a person may not decide alone, such as their own patch, stays out."""
    submissions = Submission.objects.select_related("bounty", "submitter").order_by("sealed_at", "pk")
    others = submissions.exclude(submitter=user)
    unreviewed = others.filter(state=S.CONFIRMED).exclude(reviews__reviewer=user)
    ready = submissions.filter(Q(state=S.ACCEPTED) | Q(state=S.VESTED, merged_at=None))
    doubtful = others.filter(state=S.JUDGED, verdict_kind__in=JUDGED_AGAIN)
    # Nothing of an older layout is merged, since its award vests once it is accepted, and nothing is judged again.
    ready = ready.exclude(base_tree__in=_old_bases(ready))
    failed = Q(verdict_kind=VerdictKind.INFRASTRUCTURE_ERROR.value)
    doubtful = doubtful.exclude(failed & Q(base_tree__in=_old_bases(doubtful)))
    objections = disputes(state=DisputeState.OPEN).exclude(author=user).order_by("created_at")
    ill = Runner.objects.exclude(quarantine_cause=QuarantineCause.NONE).order_by("quarantined_at", "name")
    return [
        Kind("To review", "Read the patch, then accept or decline it.", unreviewed, _submission),
        Kind("To merge", "Accepted: merging it pays the award.", ready, _submission),
        Kind("Open disputes", "Answer the author: uphold, measure again, or overturn.", objections, _dispute),
        Kind("Verdicts that need a look", "Judge it again, or decline it.", doubtful, _submission),
        Kind("Runners in quarantine", "Look what changed, then release it.", ill, _runner),
    ]


def _old_bases(found: QuerySet[Submission]) -> list[str]:
    return of_older_layout(found.order_by().values_list("base_tree", flat=True))


def _pile(kind: Kind) -> Pile:
    rows = [kind.as_waiting(row) for row in kind.found[:SHOWN]]
    return Pile(kind.title, kind.what_to_do, rows, kind.found.count())


def _submission(row: Submission) -> Waiting:
    url = reverse("submission", args=[row.pk])
    state = row.verdict_kind if row.state == S.JUDGED else row.state
    return Waiting(url, row.bounty.title, row.submitter.username, state, row.sealed_at)


def _dispute(row: Dispute) -> Waiting:
    url = f"{reverse('submission', args=[row.submission_id])}#disputes"
    return Waiting(url, row.submission.bounty.title, row.author.username, row.verdict_kind, row.created_at)


def _runner(row: Runner) -> Waiting:
    cause = row.get_quarantine_cause_display()
    return Waiting(reverse("runner", args=[row.name]), row.name, cause, row.state, row.quarantined_at)
