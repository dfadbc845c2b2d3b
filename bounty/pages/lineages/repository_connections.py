"""A lineage's connection to a repository at GitHub, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from bounty.github.repositories.connections import Event, last_event
from bounty.models import GitHubRepository, Installation, InstallationState, RepositoryBinding


@dataclass(frozen=True, slots=True)
class Connection:
    """A repository that is connected. ``is_reachable``: whether the App sees it now."""

    repository: GitHubRepository
    installation: Installation | None
    url: str
    is_reachable: bool
    event: Event | None


def connection_of(binding: RepositoryBinding | None) -> Connection | None:
    """The binding's connection; None if its pull requests are not judged."""
    if binding is None or binding.github is None:
        return None
    repository, installation = binding.github, binding.github.installation
    return Connection(
        repository=repository,
        installation=installation,
        url=binding.url.removesuffix(".git"),
        is_reachable=installation is not None and installation.state == InstallationState.ACTIVE,
        event=last_event(repository),
    )
