"""GitHub's OAuth web flow: where a person is sent, and whose number came back. Nothing is kept here.

PyGithub does it, and not django-allauth. What is needed of the flow is two calls: state and PKCE (RFC 7636, S256) with
the address, and the number of who holds the token. allauth would bring models for accounts, e-mail addresses and
tokens, which would be a second place that says whose number it is, and flows by e-mail and name that would all have to
be switched off. PyGithub is needed for the App anyway. Its address for signing in has no PKCE, so the challenge is added
to it; its exchange sends the verifier.

The token is dropped as soon as the number is read. No error here repeats a code, token, verifier or secret.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode, urlsplit

import requests
from django.conf import settings
from github import Auth, Github
from github.ApplicationOAuth import ApplicationOAuth
from github.GithubException import BadCredentialsException, GithubException

from gainshare.accounts.errors import DomainError

TIMEOUT_S = 10


class GitHubSignInFailed(DomainError):
    """GitHub did not say who it is."""

    code = "github_sign_in_failed"
    status = 502


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in at GitHub: its number, its name as of now, and since when GitHub has it, where GitHub says so."""

    github_id: int
    login: str
    joined_at: datetime | None


def is_offered() -> bool:
    """Whether people can sign in with GitHub here: a client is configured, and no token would be sent in clear text."""
    is_private = all(_is_private(url) for url in (settings.GITHUB_URL, settings.GITHUB_API_URL))
    return bool(settings.GITHUB_CLIENT_ID and settings.GITHUB_CLIENT_SECRET) and is_private


def _is_private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost")


def new_secret() -> str:
    """A random text of 256 bits, for a state or a verifier: 43 characters."""
    return secrets.token_urlsafe(32)


def authorize_url(*, state: str, verifier: str, redirect_uri: str) -> str:
    """Address to which the browser is sent, with the state and the verifier's challenge."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _connection(settings.GITHUB_URL) as github:
        address = _application(github).get_login_url(redirect_uri=redirect_uri, state=state)
    return address + "&" + urlencode({"code_challenge": challenge, "code_challenge_method": "S256"})


def person_of(*, code: str, verifier: str) -> Person:
    """Exchange the code and ask whose it is. Raises GitHubSignInFailed."""
    try:
        with _connection(settings.GITHUB_URL) as github:
            token = _application(github).get_access_token(code, code_verifier=verifier).token
        with _connection(settings.GITHUB_API_URL, Auth.Token(token)) as github:
            user = github.get_user()
            return Person(user.id, user.login, user.created_at)
    except BadCredentialsException:
        raise GitHubSignInFailed(
            "GitHub does not know this sign-in any more. Start it again.", status=400
        ) from None
    except (GithubException, requests.RequestException, ValueError, AssertionError):
        raise GitHubSignInFailed("GitHub could not say who you are. Try again in a minute.") from None


def _application(github: Github) -> ApplicationOAuth:
    return github.get_oauth_application(settings.GITHUB_CLIENT_ID, settings.GITHUB_CLIENT_SECRET)


def _connection(base_url: str, auth: Auth.Auth | None = None) -> Github:
    """A connection without retries and pauses: a person waits for it."""
    return Github(
        auth=auth,
        base_url=base_url,
        timeout=TIMEOUT_S,
        retry=None,
        seconds_between_requests=None,
        seconds_between_writes=None,
    )
