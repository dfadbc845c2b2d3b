"""Accounts, Apps and installations as JSON."""

from __future__ import annotations

from typing import Any

from bounty.github.standin.records import Account, App, Installation, Token
from bounty.github.standin.shapes.links import Site, node_id, stamp


def simple_user(site: Site, account: Account) -> dict[str, Any]:
    """What is shown of an account wherever it is named."""
    url = site.account(account)
    return {
        "login": account.login,
        "id": account.github_id,
        "node_id": node_id(account.kind, account.github_id),
        "avatar_url": f"{site.web}/avatars/{account.github_id}",
        "gravatar_id": "",
        "url": url,
        "html_url": f"{site.web}/{account.login}",
        "followers_url": f"{url}/followers",
        "following_url": f"{url}/following{{/other_user}}",
        "gists_url": f"{url}/gists{{/gist_id}}",
        "starred_url": f"{url}/starred{{/owner}}{{/repo}}",
        "subscriptions_url": f"{url}/subscriptions",
        "organizations_url": f"{url}/orgs",
        "repos_url": f"{url}/repos",
        "events_url": f"{url}/events{{/privacy}}",
        "received_events_url": f"{url}/received_events",
        "type": account.kind,
        "user_view_type": "public",
        "site_admin": False,
    }


def public_user(site: Site, account: Account) -> dict[str, Any]:
    """A user's own page, and the answer of GET /user for a token without further scopes."""
    return simple_user(site, account) | {
        "name": None,
        "company": None,
        "blog": "",
        "location": None,
        "email": None,
        "hireable": None,
        "bio": None,
        "twitter_username": None,
        "notification_email": None,
        "public_repos": 0,
        "public_gists": 0,
        "followers": 0,
        "following": 0,
        "created_at": stamp(account.created_at),
        "updated_at": stamp(account.created_at),
    }


def app(site: Site, record: App) -> dict[str, Any]:
    """The App."""
    return {
        "id": record.github_id,
        "slug": record.slug,
        "client_id": record.client_id,
        "node_id": node_id("App", record.github_id),
        "owner": simple_user(site, record.owner),
        "name": record.name,
        "description": "",
        "external_url": site.web,
        "html_url": f"{site.web}/apps/{record.slug}",
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.created_at),
        "permissions": record.permissions,
        "events": record.events,
    }


def installation(site: Site, app_record: App, record: Installation) -> dict[str, Any]:
    """An installation of the App."""
    number = record.github_id
    by = simple_user(site, record.account) if record.suspended_at else None
    return {
        "id": number,
        "account": simple_user(site, record.account),
        "repository_selection": "selected",
        "access_tokens_url": f"{site.api}/app/installations/{number}/access_tokens",
        "repositories_url": f"{site.api}/installation/repositories",
        "html_url": f"{site.web}/settings/installations/{number}",
        "app_id": app_record.github_id,
        "client_id": app_record.client_id,
        "app_slug": app_record.slug,
        "target_id": record.account.github_id,
        "target_type": record.account.kind,
        "permissions": record.permissions,
        "events": app_record.events,
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.created_at),
        "single_file_name": None,
        "has_multiple_single_files": False,
        "single_file_paths": [],
        "suspended_by": by,
        "suspended_at": stamp(record.suspended_at),
    }


def installation_token(token: Token) -> dict[str, Any]:
    """A new token of an installation, shown once."""
    return {
        "token": token.text,
        "expires_at": stamp(token.expires_at),
        "permissions": token.permissions,
        "repository_selection": "selected",
    }
