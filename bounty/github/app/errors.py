"""What an answer of GitHub's means when it is a refusal: busy, gone, or an error in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from bounty.github.app.facts import GitHubBusy, GitHubError, GitHubGone, GitHubRefused

SHORTEST_PAUSE = timedelta(minutes=1)  # what GitHub asks for where it names no time
LONGEST_PAUSE = timedelta(hours=2)  # a clock that is wrong must not stop an installation for days
SHOWN_CHARACTERS = 300
SUSPENDED = "This installation has been suspended"


def error_of(
    status: int, headers: Mapping[str, str], message: str, *, what: str, now: datetime
) -> GitHubError:
    """The error for an answer of 400 and above. Names of `headers` are in small letters.

    `message` is GitHub's own; `what` says what was asked, such as "POST /repos/…/comments".
    """
    said = clean(message)
    if (until := pause_of(status, headers, message, now)) is not None:
        return GitHubBusy(until)
    if status in (404, 410, 451):
        return GitHubGone(f"GitHub does not have it, or does not show it to the App ({what}).")
    if status == 401:
        return GitHubError(f"GitHub does not accept the App's credentials ({what}): {said}")
    if status == 403:
        return GitHubError(f"The App may not do this ({what}): {said}{_accepted(headers)}")
    if status in (400, 422):
        return GitHubRefused(f"GitHub does not take this request ({what}): {said}")
    return GitHubError(f"GitHub answered with status {status} ({what}): {said}")


def pause_of(status: int, headers: Mapping[str, str], message: str, now: datetime) -> datetime | None:
    """Until when nothing may be sent, if the answer says that a limit was reached."""
    is_used_up = headers.get("x-ratelimit-remaining") == "0"
    is_secondary = "rate limit" in message.lower() or "abuse detection" in message.lower()
    after = headers.get("retry-after", "")
    if status != 429 and not (status == 403 and (is_used_up or is_secondary or after)):
        return None
    if after.isdigit():
        return _bounded(now + timedelta(seconds=int(after[:9])), now)
    if is_used_up:
        return _bounded(reset_of(headers) or now, now)
    return now + SHORTEST_PAUSE


def reset_of(headers: Mapping[str, str]) -> datetime | None:
    """When the present hour's limit begins again."""
    text = headers.get("x-ratelimit-reset", "")
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and len(text) < 12 else None


def next_pause(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """Until when nothing may be sent after an answer that took the last request of the hour."""
    if headers.get("x-ratelimit-remaining") != "0":
        return None
    return _bounded(reset_of(headers) or now + SHORTEST_PAUSE, now)


def clean(text: str) -> str:
    """A text of GitHub's for one line of an error: without control characters, and short."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."


def _bounded(until: datetime, now: datetime) -> datetime:
    return min(max(until, now + timedelta(seconds=1)), now + LONGEST_PAUSE)


def _accepted(headers: Mapping[str, str]) -> str:
    needed = clean(headers.get("x-accepted-github-permissions", ""))
    return f" It needs the permission {needed}." if needed else ""
