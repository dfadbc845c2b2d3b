"""The web flow by which a user lets an App know who they are."""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from bounty.github.standin.authentication import issue_user_token
from bounty.github.standin.hub import Hub
from bounty.github.standin.local_only import is_own_machine
from bounty.github.standin.records import Account, Grant

CODE_LIVES = timedelta(minutes=10)


@dataclass(frozen=True)
class Page:
    """An answer for a browser, or a redirect to ``location``."""

    status: int
    text: str
    location: str = ""


def authorize(hub: Hub, query: dict[str, str]) -> Page:
    """GET /login/oauth/authorize: sends the signed-in user back with a code, else lists the users to choose from."""
    if query.get("client_id") != hub.app.client_id:
        return Page(404, "There is no App with this client_id.")
    target = query.get("redirect_uri", "")
    if not is_own_machine(target):
        return Page(400, "The redirect_uri is not associated with this application.")
    user = hub.state.account(query["login_as"]) if "login_as" in query else hub.state.signed_in
    if user is None:
        return Page(200, _choice(hub, query))
    if query.get("refuse"):
        denied = {
            "error": "access_denied",
            "error_description": "The user has denied your application access.",
        }
        return Page(302, "", _with(target, denied, query))
    return Page(302, "", _with(target, {"code": _grant(hub, user, query)}, query))


def _grant(hub: Hub, user: Account, query: dict[str, str]) -> str:
    code = secrets.token_hex(10)
    hub.state.grants[code] = Grant(
        user, query["redirect_uri"], query.get("scope", ""), query.get("code_challenge", ""),
        hub.state.now() + CODE_LIVES,
    )  # fmt: skip
    return code


def exchange(hub: Hub, given: dict[str, str]) -> dict[str, str]:
    """POST /login/oauth/access_token: a code for a token. Refusals are answers of 200 with an `error`, as at GitHub."""
    app = hub.app
    if given.get("client_id") != app.client_id or not secrets.compare_digest(
        given.get("client_secret", ""), app.client_secret
    ):
        return _error(
            "incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect."
        )
    grant = hub.state.grants.pop(given.get("code", ""), None)
    if (
        grant is None
        or hub.state.now() >= grant.expires_at
        or not _is_proved(grant, given.get("code_verifier", ""))
    ):
        return _error("bad_verification_code", "The code passed is incorrect or expired.")
    if given.get("redirect_uri") not in (None, grant.redirect_uri):
        return _error("redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL.")
    token = issue_user_token(hub.state, grant.user, grant.scopes)
    return {"access_token": token.text, "token_type": "bearer", "scope": grant.scopes}


def _is_proved(grant: Grant, verifier: str) -> bool:
    if not grant.challenge:
        return True
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == grant.challenge


def _error(name: str, text: str) -> dict[str, str]:
    return {"error": name, "error_description": text, "error_uri": "https://docs.github.com/apps"}


def _with(target: str, more: dict[str, str], query: dict[str, str]) -> str:
    parts = urlsplit(target)
    state = {"state": query["state"]} if "state" in query else {}
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *{**more, **state}.items()])))


def _choice(hub: Hub, query: dict[str, str]) -> str:
    users = [account for account in hub.state.accounts.values() if account.kind == "User"]
    rows = "".join(
        f'<li><a href="?{html.escape(urlencode({**query, "login_as": user.login}))}">{html.escape(user.login)}</a></li>'
        for user in users
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Stand-in for GitHub</title>'
        f"<h1>Sign in to the stand-in for GitHub</h1><p>Who are you?</p><ul>{rows}</ul></html>"
    )
