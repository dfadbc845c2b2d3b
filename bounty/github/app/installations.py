"""Brings the App, its installations and their repositories here, as GitHub has them now.

Asking is the same after any event, in whatever order events come, and without any: GitHub's numbers say what is what.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from bounty.github.app.app_client import AppClient, AppFacts, InstallationFacts
from bounty.github.app.client import client_for
from bounty.github.app.credentials import has_app
from bounty.github.app.facts import GitHubError
from bounty.github.app.manifest import has_public_address
from bounty.github.app.outages import SAID
from bounty.github.app.permissions import problem_of_app, problem_of_installation
from bounty.models import GitHubApp, GitHubRepository, Installation, InstallationState, RepositoryBinding

ONLY_ROW = 1
NO_INSTALLATION = (
    "The App is not installed anywhere: install it from its page ({page}) for the repositories whose pull requests are to "
    "be judged."
)


def check_app() -> None:
    """Ask GitHub for the App, its installations and their repositories, and write down what it says.

    What cannot be asked is written down in words; nothing is raised. Nothing happens without an App.
    """
    if not has_app():
        return
    try:
        client = AppClient()
        app, installations = client.app(), client.installations()
    except GitHubError as error:
        _note_app(problem=str(error))
        return
    _see_installations(installations)
    for installation in Installation.objects.filter(state=InstallationState.ACTIVE):
        _see_repositories(installation)
    connect_bindings()
    _see_app(app, is_installed=bool(installations))


def connect_bindings() -> None:
    """Connect bindings with their repositories at GitHub by address, once; from then on the number says which it is.

    A connected repository with another name now has its binding's address changed.
    """
    for repository in GitHubRepository.objects.exclude(installation=None):
        url = address_of(repository.full_name)
        RepositoryBinding.objects.filter(url=url, github=None).update(github=repository)
        stale = RepositoryBinding.objects.filter(github=repository, url__startswith=f"{settings.GITHUB_URL}/")
        stale.exclude(url=url).update(url=url)


def address_of(full_name: str) -> str:
    """The address from which a repository at GitHub is fetched, as a binding has it."""
    return f"{settings.GITHUB_URL}/{full_name}.git"


def _see_app(app: AppFacts, *, is_installed: bool) -> None:
    problem = problem_of_app(app.permissions, app.events, page=app.page, has_webhook=has_public_address())
    if not problem and not is_installed:
        problem = NO_INSTALLATION.format(page=app.page)
    _note_app(
        app_id=app.app_id, slug=app.slug, page=app.page, permissions=app.permissions, events=app.events, problem=problem
    )  # fmt: skip


def _note_app(**fields: object) -> None:
    seen = {**fields, "checked_at": timezone.now()}
    GitHubApp.objects.update_or_create(pk=ONLY_ROW, defaults=seen)


def _see_installations(found: Sequence[InstallationFacts]) -> None:
    now = timezone.now()
    for facts in found:
        state = InstallationState.SUSPENDED if facts.is_suspended else InstallationState.ACTIVE
        missing = problem_of_installation(facts.permissions, account=facts.account, page=facts.page)
        Installation.objects.update_or_create(
            pk=facts.installation_id,
            defaults={
                "account": facts.account,
                "state": state,
                "permissions": facts.permissions,
                "problem": SAID.get(state, missing),
                "checked_at": now,
            },
        )
    lost = Installation.objects.exclude(pk__in=[facts.installation_id for facts in found])
    lost.exclude(state=InstallationState.REMOVED).update(
        state=InstallationState.REMOVED, problem=SAID[InstallationState.REMOVED], checked_at=now
    )
    GitHubRepository.objects.filter(installation__state=InstallationState.REMOVED).update(installation=None)


def _see_repositories(installation: Installation) -> None:
    try:
        found = client_for(installation).repositories()
    except GitHubError as error:
        active = Installation.objects.filter(pk=installation.pk, state=InstallationState.ACTIVE)
        active.update(problem=str(error))
        return
    with transaction.atomic():
        for github_id, full_name in found:
            GitHubRepository.objects.update_or_create(
                pk=github_id, defaults={"full_name": full_name, "installation": installation}
            )
        listed = [github_id for github_id, _ in found]
        installation.repositories.exclude(pk__in=listed).update(installation=None)
