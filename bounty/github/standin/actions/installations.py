"""The App is installed, suspended, changed and removed; users and repositories get other names."""

from __future__ import annotations

from bounty.github.standin import events
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, Installation, Repository


def install(
    hub: Hub, account: Account, repositories: list[Repository], permissions: dict[str, str] | None
) -> Installation:
    """Install the App for some repositories of an account."""
    made = Installation(
        hub.state.number("installation"), account, list(repositories), hub.state.now(),
        dict(hub.app.permissions if permissions is None else permissions),
    )  # fmt: skip
    hub.state.installations[made.github_id] = made
    events.installation(hub, "created", made, account)
    return made


def suspend(hub: Hub, installation: Installation) -> None:
    installation.suspended_at = hub.state.now()
    events.installation(hub, "suspend", installation, installation.account)


def unsuspend(hub: Hub, installation: Installation) -> None:
    installation.suspended_at = None
    events.installation(hub, "unsuspend", installation, installation.account)


def remove(hub: Hub, installation: Installation) -> None:
    """Remove the App from an account: its tokens end at once."""
    installation.is_removed = True
    events.installation(hub, "deleted", installation, installation.account)


def set_permissions(hub: Hub, installation: Installation, permissions: dict[str, str]) -> None:
    """The owner accepts other permissions; new tokens have these."""
    installation.permissions = dict(permissions)
    events.installation(hub, "new_permissions_accepted", installation, installation.account)


def add_repository(hub: Hub, installation: Installation, repository: Repository) -> None:
    installation.repositories.append(repository)
    events.installation_repositories(hub, installation, installation.account, added=[repository], removed=[])


def remove_repository(hub: Hub, installation: Installation, repository: Repository) -> None:
    installation.repositories.remove(repository)
    events.installation_repositories(hub, installation, installation.account, added=[], removed=[repository])


def rename_user(hub: Hub, account: Account, login: str) -> None:
    """Give a user another name. Its repositories move along, and their former addresses lead there."""
    for repository in hub.state.repositories.values():
        if repository.owner is account:
            hub.state.former_names[repository.full_name.lower()] = repository.github_id
    account.login = login


def rename_repository(hub: Hub, repository: Repository, name: str) -> None:
    """Give a repository another name; its former address leads there."""
    hub.state.former_names[repository.full_name.lower()] = repository.github_id
    old, repository.name = repository.name, name
    events.renamed(hub, repository, old, repository.owner)
