"""What the site asks of GitHub and tells it, as an installation of the App.

No call sleeps or repeats. Repositories are addressed by their number, so that a name that moved on to somebody else's
repository leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.utils import timezone

from bounty.github.app.credentials import forget_token, installation_requester
from bounty.github.app.errors import error_of, next_pause
from bounty.github.app.facts import (
    CheckRunFields,
    CommentFacts,
    GitHubBusy,
    GitHubError,
    GitHubGone,
    PullRequestFacts,
    ReviewFacts,
)
from bounty.github.app.outages import note_pause, note_refused_token, pause_before
from bounty.github.app.reading import comment_facts, pull_request_facts, review_facts
from bounty.github.app.transport import Connection, Reply, send
from bounty.github.app.understanding import reads_answer
from bounty.models import GitHubRepository, Installation

PAGE = 100
MOST_PAGES = 100
PERMISSIONS = ("admin", "write", "read", "none")


def client_for(installation: Installation) -> Client:
    """The client of an installation. Raises GitHubError without a usable App."""
    return Client(installation.pk)


class Client:
    """Calls of one installation. Each may raise GitHubError, GitHubBusy, GitHubGone or GitHubRefused."""

    def __init__(self, installation_id: int) -> None:
        self.installation_id = installation_id
        installation_requester(installation_id)  # raises without a usable App
        self._connection = Connection(settings.GITHUB_API_URL)
        self._numbers: dict[str, int] = {}

    # -- Pull requests -----------------------------------------------------------------------------

    @reads_answer
    def pull_request(self, full_name: str, number: int) -> PullRequestFacts:
        """A pull request as it is now."""
        return pull_request_facts(self._get(full_name, f"/pulls/{number}").data)

    def pull_request_body(self, full_name: str, number: int) -> str:
        """A pull request's text as it is now."""
        return self.pull_request(full_name, number).body

    @reads_answer
    def open_pull_requests(
        self, full_name: str, *, etag: str, since: datetime | None = None
    ) -> tuple[list[PullRequestFacts], str] | None:
        """Pull requests, newest update first, also those closed since; and the list's ETag. None: unchanged.

        The 100 that changed last; with ``since`` all that changed after it.
        """
        parameters = {"state": "all", "sort": "updated", "direction": "desc", "per_page": PAGE}
        condition = {"If-None-Match": etag} if etag else {}
        first = self._get(full_name, "/pulls", parameters, headers=condition)
        if first.status == 304:
            return None
        found = [pull_request_facts(row) for row in first.data]
        reply, page = first, 1
        while (
            since is not None
            and found
            and found[-1].updated_at >= since
            and has_next(reply)
            and page < MOST_PAGES
        ):
            page += 1
            reply = self._get(full_name, "/pulls", {**parameters, "page": page})
            found += [pull_request_facts(row) for row in reply.data]
        return found, first.headers.get("etag", "")

    @reads_answer
    def comments(self, full_name: str, number: int, *, since: datetime | None) -> list[CommentFacts]:
        """Comments of a pull request's conversation, oldest first; with ``since`` those changed from then on."""
        parameters = {"since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"} if since else {}
        repository = self._number(full_name)
        rows = self._rows(full_name, f"/issues/{number}/comments", parameters)
        return [comment_facts(row, repository_id=repository, number=number) for row in rows]

    @reads_answer
    def reviews(self, full_name: str, number: int) -> list[ReviewFacts]:
        """Submitted reviews of a pull request, oldest first."""
        repository = self._number(full_name)
        rows = self._rows(full_name, f"/pulls/{number}/reviews")
        read = (review_facts(row, repository_id=repository, number=number) for row in rows)
        return [row for row in read if row is not None]

    @reads_answer
    def permission(self, full_name: str, login: str, *, github_id: int | None = None) -> str:
        """What a user may do in the repository: admin, write, read or none.

        With ``github_id`` the name must still be that account's, else the answer is none. Raises GitHubGone where the
        repository itself is gone, which says nothing of the user.
        """
        try:
            data = self._get(full_name, f"/collaborators/{quote(login, safe='')}/permission").data
        except GitHubGone:
            self._get(full_name, "")
            return "none"
        if github_id is not None and (data.get("user") or {}).get("id") != github_id:
            return "none"
        return data["permission"] if data["permission"] in PERMISSIONS else "none"

    # -- Comments and reactions --------------------------------------------------------------------

    @reads_answer
    def find_comment(self, full_name: str, number: int, *, marker: str) -> int | None:
        """The number of the oldest comment that our App wrote with the marker in it."""
        for row in self._rows(full_name, f"/issues/{number}/comments"):
            if marker in (row.get("body") or "") and is_own_app(row.get("performed_via_github_app")):
                return int(row["id"])
        return None

    @reads_answer
    def create_comment(self, full_name: str, number: int, text: str) -> int:
        """Write a comment; its number."""
        return int(self._send(full_name, "POST", f"/issues/{number}/comments", {"body": text}).data["id"])

    def edit_comment(self, full_name: str, comment_id: int, text: str) -> None:
        """Replace a comment's text."""
        self._send(full_name, "PATCH", f"/issues/comments/{comment_id}", {"body": text})

    def react(self, full_name: str, comment_id: int, reaction: str) -> None:
        """Give a comment a reaction ("+1", "confused", "eyes"); repeating it changes nothing."""
        self._send(full_name, "POST", f"/issues/comments/{comment_id}/reactions", {"content": reaction})

    # -- Check runs --------------------------------------------------------------------------------

    @reads_answer
    def find_check(self, full_name: str, sha: str, *, external_id: str) -> int | None:
        """The number of our App's check run of a commit by our own name for it."""
        rows = self._rows(full_name, f"/commits/{sha}/check-runs", {"filter": "all"}, key="check_runs")
        found = [
            int(r["id"]) for r in rows if r.get("external_id") == external_id and is_own_app(r.get("app"))
        ]
        return min(found, default=None)

    @reads_answer
    def create_check(self, full_name: str, sha: str, *, external_id: str, fields: CheckRunFields) -> int:
        """Make a check run for a commit; its number. A commit that the repository lacks is refused."""
        given = {"head_sha": sha, "external_id": external_id, **_check_body(fields)}
        return int(self._send(full_name, "POST", "/check-runs", given).data["id"])

    def update_check(self, full_name: str, check_id: int, fields: CheckRunFields) -> None:
        """Change a check run."""
        self._send(full_name, "PATCH", f"/check-runs/{check_id}", _check_body(fields))

    # -- The installation --------------------------------------------------------------------------

    @reads_answer
    def repositories(self) -> list[tuple[int, str]]:
        """Numbers and names of the repositories that the installation opens to the App."""
        found = []
        for page in self._pages("/installation/repositories", {}):
            found += [(int(row["id"]), str(row["full_name"])) for row in page.data["repositories"]]
        return found

    # -- Requests ----------------------------------------------------------------------------------

    def _get(
        self,
        full_name: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        return self._call("GET", f"{self._base(full_name)}{path}", parameters=parameters, headers=headers)

    def _send(self, full_name: str, verb: str, path: str, given: Mapping[str, Any]) -> Reply:
        return self._call(verb, f"{self._base(full_name)}{path}", given=given)

    def _rows(
        self, full_name: str, path: str, parameters: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Iterator[dict[str, Any]]:
        for page in self._pages(f"{self._base(full_name)}{path}", parameters or {}):
            yield from page.data[key] if key else page.data

    def _pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Reply]:
        for page in range(1, MOST_PAGES + 1):
            reply = self._call("GET", path, parameters={**parameters, "per_page": PAGE, "page": page})
            yield reply
            if not has_next(reply):
                return

    def _base(self, full_name: str) -> str:
        return f"/repositories/{self._number(full_name)}"

    def _number(self, full_name: str) -> int:
        """The repository's number: as known here, else as GitHub says."""
        if full_name not in self._numbers:
            known = GitHubRepository.objects.filter(
                full_name=full_name, installation_id=self.installation_id
            ).values_list("github_id", flat=True)[:2]
            self._numbers[full_name] = known[0] if len(known) == 1 else self._asked_number(full_name)
        return self._numbers[full_name]

    def _asked_number(self, full_name: str) -> int:
        owner, _, name = full_name.partition("/")
        return int(self._call("GET", f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}").data["id"])

    def _call(
        self,
        verb: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, unless GitHub asked to wait. Notes what the answer says of limits and of the installation."""
        if (until := pause_before(self.installation_id)) is not None:
            raise GitHubBusy(until)
        requester = installation_requester(self.installation_id)
        reply = send(
            requester, self._connection, verb, path, parameters=parameters, given=given, headers=headers
        )
        now = timezone.now()
        if reply.status < 400:
            if (pause := next_pause(reply.headers, now)) is not None:
                note_pause(self.installation_id, pause)
            return reply
        raise self._failed(
            reply, error_of(reply.status, reply.headers, reply.message, what=f"{verb} {path}", now=now)
        )

    def _failed(self, reply: Reply, error: GitHubError) -> GitHubError:
        if isinstance(error, GitHubBusy):
            note_pause(self.installation_id, error.until)
        elif reply.status == 401:
            forget_token(self.installation_id)
        return note_refused_token(self.installation_id, reply, error)


def has_next(reply: Reply) -> bool:
    """Whether a list has a further page."""
    return 'rel="next"' in reply.headers.get("link", "")


def is_own_app(app: dict[str, Any] | None) -> bool:
    """Whether something on GitHub was made by our App. Settings may name it by its number or its client id."""
    return app is not None and settings.GITHUB_APP_ID in (str(app.get("id")), app.get("client_id"))


def _check_body(fields: CheckRunFields) -> dict[str, Any]:
    output = {"title": fields.title, "summary": fields.summary} | (
        {"text": fields.text} if fields.text else {}
    )
    optional = {"conclusion": fields.conclusion, "details_url": fields.details_url}
    given = {name: value for name, value in optional.items() if value}
    return {"name": fields.name, "status": fields.status, "output": output, **given}
