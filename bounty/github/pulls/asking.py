"""Questions to GitHub about one pull request, through its repository's installation."""

from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from bounty.github.app.facts import CommentFacts, GitHubError, GitHubGone, PullRequestFacts
from bounty.models import GitHubRepository, Installation, InstallationState, PullRequest

MAY_WRITE = ("admin", "maintain", "write")


class Client(Protocol):
    """What is asked of `bounty.github.app.client.Client` here."""

    def pull_request(self, full_name: str, number: int) -> PullRequestFacts: ...
    def open_pull_requests(
        self, full_name: str, *, etag: str
    ) -> tuple[list[PullRequestFacts], str] | None: ...
    def comments(self, full_name: str, number: int, *, since: datetime | None) -> list[CommentFacts]: ...
    def permission(self, full_name: str, login: str) -> str: ...
    def react(self, full_name: str, comment_id: int, reaction: str) -> None: ...


class NotConnected(GitHubError):
    """The App is not installed where the repository is, or no longer."""


def client_of(repository: GitHubRepository) -> Client:
    """The client of the repository's installation. Raises GitHubError."""
    found = repository.installation
    if found is None or found.state != InstallationState.ACTIVE:
        raise NotConnected(
            f"The GitHub App has no active installation for {repository.full_name}. Install it there, or resume it."
        )
    return client_for(found)


def client_for(installation: Installation) -> Client:
    """The client of one installation. Raises GitHubError without an App."""
    return cast(Client, import_module("bounty.github.app.client").client_for(installation))


def newest(facts: PullRequestFacts) -> PullRequestFacts:
    """The pull request as GitHub has it now, or as given where GitHub cannot be asked."""
    repository = GitHubRepository.objects.select_related("installation").get(pk=facts.repository_id)
    try:
        return client_of(repository).pull_request(repository.full_name, facts.number)
    except GitHubError:
        return facts


def may_write(pull: PullRequest, login: str) -> bool:
    """Whether this account may write to the repository. Raises GitHubError where GitHub cannot be asked."""
    repository = pull.repository
    try:
        return client_of(repository).permission(repository.full_name, login) in MAY_WRITE
    except GitHubGone:
        return False  # nobody has this name any more
