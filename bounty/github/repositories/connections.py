"""Connecting a lineage to a repository at GitHub that the App sees, so that its pull requests are judged. Maintainers only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from bounty.errors import BadRequest, NotFound, WrongState
from bounty.github.repositories.addresses import DEFAULT_FOLDER
from bounty.github.repositories.bindings import bind
from bounty.models import Delivery, GitHubRepository, InstallationState, RepositoryBinding
from bounty.services.permissions import require_maintainer
from bounty.services.transitions import note
from gainshare.accounts.models import User
from gainshare.ledger.services import MAX_MICROCREDITS

DELIVERIES_READ = 500  # the newest, among which a repository's last event is looked for


@dataclass(frozen=True, slots=True)
class Event:
    """The last event that GitHub sent of a repository."""

    name: str
    received_at: datetime


def seen_repositories() -> QuerySet[GitHubRepository]:
    """Repositories that an active installation of the App opens to it."""
    return (
        GitHubRepository.objects.filter(installation__state=InstallationState.ACTIVE)
        .select_related("installation")
        .order_by("full_name", "pk")
    )


def connect(
    *,
    actor: User,
    name: str,
    github_id: int,
    branch: str,
    folder: str = DEFAULT_FOLDER,
    daily_microcredits: int = 0,
) -> RepositoryBinding:
    """Bind the lineage to a repository that the App sees, and say what comments there can spend in a day.

    Repeating it changes nothing. Raises NotAllowed, NotFound, BadRequest, and WrongState if the App does not see it now.
    """
    require_maintainer(actor, "connect a lineage to a repository at GitHub")
    if not 0 <= daily_microcredits <= MAX_MICROCREDITS:
        raise BadRequest("What comments can spend in a day must be zero or more micro-credits.")
    repository = GitHubRepository.objects.filter(pk=github_id).first()
    if repository is None:
        raise NotFound("The App has never seen a repository with this number. Install it there first.")
    if not seen_repositories().filter(pk=github_id).exists():
        raise WrongState(
            f"The App does not see {repository.full_name} now: its installation is suspended, was removed, or leaves this "
            "repository out. Change that in GitHub's settings, under Applications."
        )
    with transaction.atomic():
        binding = bind(actor=actor, name=name, repository=repository.full_name, branch=branch, folder=folder)
        if (binding.github_id, binding.daily_microcredits) != (github_id, daily_microcredits):
            binding.github, binding.daily_microcredits = repository, daily_microcredits
            binding.save(update_fields=["github", "daily_microcredits"])
            note(
                binding.lineage,
                old=binding.lineage.tip_id,
                new=binding.lineage.tip_id,
                reason=f"pull requests of {repository.full_name} are judged; comments there can spend {daily_microcredits} "
                "micro-credits a day",
                actor=actor,
            )
    return binding


def last_event(repository: GitHubRepository) -> Event | None:
    """The newest event of the repository, if it is among the newest of all."""
    newest = Delivery.objects.order_by("-received_at").values_list(
        "payload__repository__id", "event", "action", "received_at"
    )[:DELIVERIES_READ]
    for number, event, action, received_at in newest:
        if number == repository.pk:
            return Event(f"{event} {action}".strip(), received_at)
    return None
