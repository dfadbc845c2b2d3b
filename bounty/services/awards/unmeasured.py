"""Who is paid by a submission, and what its pull request changes that nobody measured: both limit who may accept what.

A pull request may change files outside of the bound folder. The judge never sees them, so that no award vests before an
acceptance has named each of them.
"""

from collections.abc import Collection
from uuid import UUID

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from bounty.errors import BadRequest, WrongState
from bounty.models import Award, Head, Submission

SHOWN = 50


def payees(submission: Submission) -> frozenset[int]:
    """Ids of the users that the submission pays, or whose pull request it is."""
    reproduced = Award.objects.filter(submission=submission, reproduction__isnull=False)
    opened = Head.objects.filter(submission=submission)
    return frozenset(
        {
            submission.submitter_id,
            *reproduced.values_list("reproduction__author", flat=True),
            *opened.values_list("pull_request__author__user", flat=True),
        }
    )


def unaccepted_paths(submission: Submission) -> list[str]:
    """Changed files that nobody measured and no acceptance has named, sorted."""
    rows = _heads(submission.pk).filter(unmeasured_accepted_at=None)
    return sorted({path for paths in rows.values_list("unmeasured_paths", flat=True) for path in paths})


def accept_paths(submission: Submission, *, named: Collection[str]) -> bool:
    """Write down that an acceptance has named every such file; whether there were any.

    Raises BadRequest with those that it has not named.
    """
    missing = [path for path in unaccepted_paths(submission) if path not in named]
    if missing:
        raise BadRequest(
            f"The pull request also changes code that nobody measured: {_listed(missing)}. Read it, and name each of "
            "these files in your acceptance."
        )
    due = _heads(submission.pk).filter(unmeasured_accepted_at=None).exclude(unmeasured_paths=[])
    return bool(due.update(unmeasured_accepted_at=timezone.now()))


def require_paths_accepted(submission: Submission) -> None:
    """Raises WrongState while an acceptance has to name files that nobody measured."""
    missing = unaccepted_paths(submission)
    if missing:
        raise WrongState(
            f"Its pull request changes code that nobody measured: {_listed(missing)}. It waits until a maintainer "
            "accepts it and names each of these files."
        )


def _heads(submission_id: UUID) -> QuerySet[Head]:
    """The measured head, and the newest of its pull request: that is what was merged, or will be."""
    pull_requests = Head.objects.filter(submission=submission_id).values("pull_request")
    return Head.objects.filter(
        Q(submission=submission_id) | Q(pull_request__in=pull_requests, sha=F("pull_request__head_sha"))
    )


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
