"""What an installation's answers say of itself: a pause that GitHub asks for, a suspension, a removal."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q
from django.utils import timezone

from bounty.github.app.errors import SUSPENDED
from bounty.github.app.facts import GitHubError, GitHubGone
from bounty.github.app.transport import Reply
from bounty.models import Installation, InstallationState

SAID = {
    InstallationState.SUSPENDED: "The App's installation is suspended: unsuspend it in GitHub's settings, under Applications.",
    InstallationState.REMOVED: "The App was removed from this account: install it again to continue.",
}

BAD_APP = (
    "GitHub does not accept the App's key: check that GAINSHARE_GITHUB_APP_ID and GAINSHARE_GITHUB_PRIVATE_KEY belong "
    "together, and that this machine's clock is right."
)


def pause_before(installation_id: int) -> datetime | None:
    """Until when nothing may be sent, if GitHub asked to wait and the time is not over."""
    until = Installation.objects.filter(pk=installation_id).values_list("quiet_until", flat=True).first()
    return until if until is not None and until > timezone.now() else None


def note_pause(installation_id: int, until: datetime) -> None:
    """Let nothing be sent for an installation before a time. An earlier, longer pause stays."""
    shorter = Q(quiet_until=None) | Q(quiet_until__lt=until)
    Installation.objects.filter(shorter, pk=installation_id).update(quiet_until=until)


def note_state(installation_id: int, state: InstallationState) -> None:
    """Note that GitHub says that an installation is suspended or removed."""
    Installation.objects.filter(pk=installation_id).exclude(state=state).update(
        state=state, problem=SAID[state]
    )


def note_refused_token(installation_id: int, reply: Reply, error: GitHubError) -> GitHubError:
    """The error to raise, after noting what it says of the installation as a whole."""
    if reply.status == 403 and SUSPENDED in reply.message:
        return _gone(installation_id, InstallationState.SUSPENDED)
    if reply.is_about_token and reply.status == 404 and "integration" not in reply.message.lower():
        return _gone(installation_id, InstallationState.REMOVED)
    if reply.is_about_token and reply.status in (401, 404):
        return GitHubError(BAD_APP)
    return error


def _gone(installation_id: int, state: InstallationState) -> GitHubGone:
    note_state(installation_id, state)
    return GitHubGone(SAID[state])
