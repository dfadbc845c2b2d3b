"""The pull requests of a bounty as everyone may see them: links, states, and verdicts that are public."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.db.models import Prefetch, Q

from bounty.models import Bounty, Head, PullRequest, RepositoryBinding, Submission

SHOWN = 50


@dataclass(frozen=True, slots=True)
class PullRequestRow:
    """One pull request. ``submission`` is its newest head's; a head without one says in words where it is."""

    pull_request: PullRequest
    url: str
    head: str
    head_state: str
    submission: Submission | None


@dataclass(frozen=True, slots=True)
class ConnectedRepository:
    """Where pull requests for a bounty are opened."""

    full_name: str
    branch: str
    url: str


def repository_of(bounty: Bounty) -> ConnectedRepository | None:
    """The repository whose pull requests are judged for the bounty's lineage; None where none is connected."""
    binding = RepositoryBinding.objects.filter(lineage=bounty.lineage_id).select_related("github").first()
    if binding is None or binding.github is None:
        return None
    name = binding.github.full_name
    return ConnectedRepository(name, binding.branch, f"{settings.GITHUB_URL}/{name}")


def pull_requests_of(bounty: Bounty) -> list[PullRequestRow]:
    """The newest pull requests that name the bounty, or whose heads were judged for it."""
    heads = Prefetch(
        "heads",
        Head.objects.select_related("submission__bounty", "submission__submitter").order_by("seen_at", "pk"),
    )
    found = (
        PullRequest.objects.filter(Q(bounty=bounty) | Q(heads__submission__bounty=bounty))
        .select_related("repository", "author")
        .prefetch_related(heads)
        .distinct()
        .order_by("-opened_at", "-number")[:SHOWN]
    )
    return [_row(pull_request) for pull_request in found]


def _row(pull_request: PullRequest) -> PullRequestRow:
    newest = next((head for head in pull_request.heads.all() if head.sha == pull_request.head_sha), None)
    return PullRequestRow(
        pull_request=pull_request,
        url=f"{settings.GITHUB_URL}/{pull_request.repository.full_name}/pull/{pull_request.number}",
        head=pull_request.head_sha[:12],
        head_state=newest.get_state_display() if newest is not None else "",
        submission=newest.submission if newest is not None else None,
    )
