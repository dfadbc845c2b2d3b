"""One queue for each installation: the holder of its lock sends, and no one else does meanwhile."""

from datetime import datetime

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from bounty.models import Installation, InstallationState, PullRequest, Report, ReportKind

# First key of PostgreSQL's two-key advisory locks; the second one is the installation.
_SPACE = 0x6768
_MOST_KEYS = 2**31
TICKET = "comment"  # subject of the row that stands for its pull request in the queue


def is_ours(installation_id: int) -> bool:
    """Take the installation's queue until the transaction ends; False while somebody else has it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [_SPACE, installation_id % _MOST_KEYS])
        row = cursor.fetchone()
    return bool(row and row[0])


def enter(pull_request: PullRequest) -> None:
    """Have the pull request looked at now. Also while it is just looked at: then it is once more afterwards."""
    row, _ = Report.objects.get_or_create(
        kind=ReportKind.COMMENT, pull_request=pull_request, head=None, subject=TICKET
    )
    Report.objects.filter(pk=row.pk).update(look_at=timezone.now())


def leave(ticket: Report, *, until: datetime | None) -> None:
    """Look again at that time, or only after the next change. Nothing if it was entered again meanwhile."""
    Report.objects.filter(pk=ticket.pk, look_at=ticket.look_at).update(look_at=until)


def first_due(installation_id: int) -> Report | None:
    """The pull request that waits longest for a look, unless nothing may be sent for this installation now."""
    now = timezone.now()
    open_now = Q(
        pull_request__repository__installation__state=InstallationState.ACTIVE,
        pull_request__repository__installation=installation_id,
    ) & (
        Q(pull_request__repository__installation__quiet_until=None)
        | Q(pull_request__repository__installation__quiet_until__lte=now)
    )
    due = Report.objects.filter(open_now, look_at__lte=now)
    return due.select_related("pull_request__repository__installation").order_by("look_at", "pk").first()


def due_installations() -> list[int]:
    """Installations with pull requests to be looked at, as far as anything may be sent for them now."""
    now = timezone.now()
    quiet = Q(quiet_until__gt=now)
    due = Installation.objects.filter(repositories__pull_requests__reports__look_at__lte=now)
    active = due.filter(state=InstallationState.ACTIVE).exclude(quiet)
    return list(active.order_by("pk").values_list("pk", flat=True).distinct())
