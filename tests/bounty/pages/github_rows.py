"""Rows of GitHub for tests of pages: an installation with a repository, and pull requests."""

from datetime import datetime
from typing import Any

from django.utils import timezone

from bounty.github.app.facts import AccountFacts
from bounty.github.people import account_of
from bounty.models import GitHubRepository, Head, HeadState, Installation, PullRequest, Submission

NINA = AccountFacts(4711, "nina")


def a_repository(full_name: str = "gain/share", number: int = 910, **installation: Any) -> GitHubRepository:
    """A repository that an installation opens to the App."""
    made, _ = Installation.objects.get_or_create(
        installation_id=51, defaults={"account": full_name.split("/")[0], **installation}
    )
    return GitHubRepository.objects.create(github_id=number, full_name=full_name, installation=made)


def a_pull_request(
    repository: GitHubRepository,
    number: int = 7,
    *,
    submission: Submission | None = None,
    at: datetime | None = None,
    **fields: Any,
) -> PullRequest:
    """A pull request with one head, which has the submission if one is given."""
    sha = f"{number:040x}"
    at = at or timezone.now()
    values = {"title": "Faster experts", "branch": "main", "head_sha": sha, "opened_at": at, "updated_at": at}
    made = PullRequest.objects.create(
        repository=repository, number=number, author=account_of(NINA), **{**values, **fields}
    )
    state = HeadState.SUBMITTED if submission is not None else HeadState.SEALED
    Head.objects.create(pull_request=made, sha=sha, state=state, sealed_at=at, submission=submission)
    return made
