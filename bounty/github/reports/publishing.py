"""Tells pull requests what has changed: compares what each should be told with what was sent, and sends the difference.

One call a transaction, under the lock of the installation's queue. A worker may die between any two steps: a comment is found
again by its marker, a check run by its `external_id`, and a final check run is written down before it is sent, so that it is
always sent as it was. Wake-ups may come twice, late or at once.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.github.app.facts import CheckRunFields, GitHubBusy, GitHubError, GitHubGone
from bounty.github.reports import sending
from bounty.github.reports.checks import heads_of, is_being_judged, wanted_checks
from bounty.github.reports.comments import wanted_comment
from bounty.github.reports.queues import TICKET, due_installations, enter, first_due, is_ours, leave
from bounty.models import (
    Head,
    Installation,
    InstallationState,
    PullRequest,
    Report,
    ReportKind,
    SubmissionState,
)

logger = logging.getLogger(__name__)

PROGRESS_EVERY = timedelta(seconds=15)  # updates of one check run
LOOK_EVERY = timedelta(minutes=10)  # at what waits for people
RETRY_AFTER = timedelta(seconds=30)  # after the first failure; twice as long after each further one
RETRY_SLOWLY = timedelta(hours=1)  # where something is gone, and at most after any failure
MOST_DOUBLINGS = 7
MOST_STEPS = 300  # of one call; beat continues
WAITS_FOR_PEOPLE = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One report as it should be: the text of the comment, or a check run's fields. ``outcome`` is that of a final one."""

    kind: ReportKind
    subject: str
    head: Head | None
    content: str | CheckRunFields
    outcome: str = ""

    @property
    def digest(self) -> str:
        return digest_of(self.content)


def digest_of(content: str | CheckRunFields) -> str:
    """SHA-256 of what is sent."""
    plain = content if isinstance(content, str) else json.dumps(asdict(content), sort_keys=True)
    return hashlib.sha256(plain.encode("utf-8", "backslashreplace")).hexdigest()


def publish(pull_request_id: UUID) -> None:
    """Send what the pull request has not been told, and whatever else waits in the queue of its installation.

    If another worker has the queue, that one does it. Nothing is raised for what GitHub refuses: the report says it as its
    ``problem`` and is tried again later.
    """
    rows = PullRequest.objects.select_related("repository__installation")
    pull_request = rows.filter(pk=pull_request_id).first()
    if pull_request is None:
        return
    enter(pull_request)
    fault_point("report.entered")
    installation = pull_request.repository.installation
    if installation is None or installation.state != InstallationState.ACTIVE:
        _say_unreachable(pull_request, installation)
        return
    _work_off(installation.pk)


def publish_due() -> None:
    """Work off every queue: for beat, which finds what a lost message or a killed worker left, and progress."""
    for installation_id in due_installations():
        _work_off(installation_id)


def _work_off(installation_id: int) -> None:
    for _ in range(MOST_STEPS):
        ticket = first_due(installation_id)
        if ticket is None:
            return
        try:
            with transaction.atomic():
                if not is_ours(installation_id):
                    return  # who has it finds this pull request
                _step(ticket)
        except Exception:  # one broken pull request must not stop the others of the installation
            logger.exception("the reports of %s could not be sent", ticket.pull_request)
            leave(ticket, until=timezone.now() + RETRY_SLOWLY)
        fault_point("report.recorded")


def _step(ticket: Report) -> None:
    """Write one final check run down, or send one report, or find that there is nothing to do now."""
    pull_request, now = ticket.pull_request, timezone.now()
    held: list[datetime] = []
    for wanted in _all_wanted(pull_request):
        row = _row_of(pull_request, wanted)
        if row.sent_digest == wanted.digest and row.github_id is not None:
            continue
        if wanted.outcome and not row.is_final:
            _write_down(row, wanted)
            return
        held_until = _held_until(row)
        if held_until is None or held_until <= now:
            _send(ticket, row, wanted)
            return
        held.append(held_until)
    leave(ticket, until=min([*held, *_next_looks(pull_request, now)], default=None))


def _all_wanted(pull_request: PullRequest) -> Iterator[Wanted]:
    """Final check runs as they were written down, then the others, then the comment, which tells of them."""
    final = Report.objects.filter(pull_request=pull_request, is_final=True).select_related("head")
    for row in final:
        assert row.final_fields is not None, "a final check run was written down"
        yield Wanted(ReportKind.CHECK, row.subject, row.head, CheckRunFields(**row.final_fields), row.outcome)
    for check in wanted_checks(pull_request):
        yield Wanted(ReportKind.CHECK, check.subject, check.head, check.fields, check.outcome)
    if text := wanted_comment(pull_request):
        yield Wanted(ReportKind.COMMENT, TICKET, None, text)


def _row_of(pull_request: PullRequest, wanted: Wanted) -> Report:
    row, _ = Report.objects.get_or_create(
        kind=wanted.kind, pull_request=pull_request, head=wanted.head, subject=wanted.subject
    )
    return row


def _write_down(row: Report, wanted: Wanted) -> None:
    assert isinstance(wanted.content, CheckRunFields), "only a check run is final"
    Report.objects.filter(pk=row.pk, is_final=False).update(
        is_final=True,
        outcome=wanted.outcome,
        final_fields=asdict(wanted.content),
        told_at=timezone.now(),
        due_at=None if row.attempts == 0 else row.due_at,
    )


def _held_until(row: Report) -> datetime | None:
    """Until when this report is not sent: after a failure, and between two updates of progress."""
    is_progress = row.kind == ReportKind.CHECK and not row.is_final and row.github_id is not None
    pace = row.sent_at + PROGRESS_EVERY if is_progress and row.sent_at is not None else None
    return max((moment for moment in (pace, row.due_at) if moment is not None), default=None)


def _next_looks(pull_request: PullRequest, now: datetime) -> Iterator[datetime]:
    heads = heads_of(pull_request)
    if any(is_being_judged(head) for head in heads):
        yield now + PROGRESS_EVERY
    if any(head.submission is not None and head.submission.state in WAITS_FOR_PEOPLE for head in heads):
        yield now + LOOK_EVERY


def _send(ticket: Report, row: Report, wanted: Wanted) -> None:
    installation = ticket.pull_request.repository.installation
    assert installation is not None, "the queue is an installation's"
    try:
        github_id = sending.send(installation, ticket.pull_request, row, wanted.content)
    except GitHubBusy as busy:
        Installation.objects.filter(pk=installation.pk).update(quiet_until=busy.until)
        Report.objects.filter(pk=row.pk).update(due_at=busy.until, problem=str(busy)[:2000])
    except GitHubGone as gone:
        _put_off(row, RETRY_SLOWLY, str(gone), github_id=None)
    except GitHubError as error:
        _put_off(row, RETRY_AFTER, str(error), github_id=row.github_id)
    else:
        Report.objects.filter(pk=row.pk).update(
            github_id=github_id,
            sent_digest=wanted.digest,
            sent_at=timezone.now(),
            due_at=None,
            attempts=0,
            problem="",
        )
        fault_point("report.before_commit")


def _put_off(row: Report, first: timedelta, problem: str, *, github_id: int | None) -> None:
    """Try this report again later, and later each time."""
    wait = min(first * 2 ** min(row.attempts, MOST_DOUBLINGS), max(RETRY_SLOWLY, first))
    logger.warning("%s: not told, tried again in %d s: %s", row.pull_request, wait.total_seconds(), problem)
    Report.objects.filter(pk=row.pk).update(
        attempts=row.attempts + 1, due_at=timezone.now() + wait, problem=problem[:2000], github_id=github_id
    )


def _say_unreachable(pull_request: PullRequest, installation: Installation | None) -> None:
    """Say why nothing can be sent, and look again in an hour."""
    state = "missing" if installation is None else installation.get_state_display().lower()
    problem = (
        f"The App's installation for {pull_request.repository} is {state}, so nothing can be told there. An owner of the "
        "repository installs the App again, or ends its suspension, in GitHub's settings."
    )
    Report.objects.filter(pull_request=pull_request, kind=ReportKind.COMMENT).update(
        problem=problem, look_at=timezone.now() + RETRY_SLOWLY
    )
