"""How the site is connected with GitHub, and what is missing, from what was asked last."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import Prefetch

from bounty.github.app.manifest import has_public_address, manifest
from bounty.models import GitHubApp, GitHubRepository, Installation, InstallationState
from bounty.services.wakeups import wake_app_check

NOT_CHECKED = "GitHub was not asked yet: `gainshare github status` asks, and so does the site by itself every ten minutes."
NO_BINDING = (
    "No lineage is bound to a repository that the App can see: bind one with `gainshare lineages bind NAME --repository "
    "OWNER/NAME`."
)


def connection() -> dict[str, Any]:
    """The connection as the REST API shows it."""
    app = GitHubApp.objects.first() or GitHubApp()
    rows = [_installation(row) for row in _installations()]
    return {
        "url": settings.GITHUB_URL,
        "api_url": settings.GITHUB_API_URL,
        "slug": app.slug,
        "page": app.page,
        "is_polling": not has_public_address(),
        "missing": missing(app, rows),
        "checked_at": app.checked_at,
        "installations": rows,
    }


def missing(app: GitHubApp, installations: list[dict[str, Any]]) -> list[str]:
    """What is missing, in the order in which to see to it."""
    unset = [
        f"{name} is not set. `gainshare github connect` says how to get it."
        for name, value in (
            ("GAINSHARE_GITHUB_APP_ID", settings.GITHUB_APP_ID),
            ("GAINSHARE_GITHUB_PRIVATE_KEY", settings.GITHUB_PRIVATE_KEY),
            ("GAINSHARE_GITHUB_WEBHOOK_SECRET", settings.GITHUB_WEBHOOK_SECRETS or not has_public_address()),
            ("GAINSHARE_GITHUB_CLIENT_ID", settings.GITHUB_CLIENT_ID),
            ("GAINSHARE_GITHUB_CLIENT_SECRET", settings.GITHUB_CLIENT_SECRET),
        )
        if not value
    ]
    if not settings.GITHUB_APP_ID or not settings.GITHUB_PRIVATE_KEY:
        return unset
    if app.checked_at is None:
        return [*unset, NOT_CHECKED]
    problems = [app.problem] if app.problem else []
    problems += [f"{row['account']}: {row['problem']}" for row in installations if row["problem"]]
    if not problems and not any(seen["lineages"] for row in installations for seen in row["repositories"]):
        problems.append(NO_BINDING)
    return unset + problems


def ask_check() -> None:
    """Have a control worker ask GitHub."""
    wake_app_check()


def manifest_for(name: str) -> dict[str, Any]:
    """The manifest of an App of that name."""
    return manifest(name=name)


def _installations() -> list[Installation]:
    repositories = GitHubRepository.objects.prefetch_related("bindings__lineage").order_by("full_name")
    found = Installation.objects.prefetch_related(Prefetch("repositories", repositories))
    return list(found.order_by("account", "pk"))


def _installation(row: Installation) -> dict[str, Any]:
    repositories = [
        {
            "github_id": seen.pk,
            "full_name": seen.full_name,
            "lineages": sorted(binding.lineage.name for binding in seen.bindings.all()),
            "polled_at": seen.polled_at,
            "events_missing_since": seen.events_missing_since,
        }
        for seen in row.repositories.all()
    ]
    return {
        "installation_id": row.pk,
        "account": row.account,
        "state": InstallationState(row.state).value,
        "permissions": row.permissions,
        "problem": row.problem,
        "quiet_until": row.quiet_until,
        "checked_at": row.checked_at,
        "repositories": repositories,
    }
