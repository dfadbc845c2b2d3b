"""The App's credentials: its key signs short JWTs, which buy each installation's token for an hour.

Tokens are kept in this process alone. No error and no log line has a key or a token.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from github import Auth, Github, GithubIntegration
from github.Requester import Requester

from bounty.github.app.facts import GitHubError
from bounty.github.app.transport import TIMEOUT_S

API_VERSION = "2022-11-28"
NO_APP = (
    "No GitHub App is set up: set GAINSHARE_GITHUB_APP_ID and GAINSHARE_GITHUB_PRIVATE_KEY_FILE. "
    "`gainshare github connect` says how."
)
BAD_KEY = (
    "GAINSHARE_GITHUB_PRIVATE_KEY is not an RSA private key in PEM: download one from the App's page on GitHub, and name "
    "the file by GAINSHARE_GITHUB_PRIVATE_KEY_FILE."
)
PLAIN_HTTP = "GAINSHARE_GITHUB_API_URL must begin with https://: tokens are not sent in clear text."

Key = tuple[str, str, str, int]
_lock = threading.Lock()
_requesters: dict[Key, Requester] = {}


def has_app() -> bool:
    """Whether an App is set up at all."""
    return bool(settings.GITHUB_APP_ID and settings.GITHUB_PRIVATE_KEY)


def app_requester() -> Requester:
    """A requester that speaks as the App. Raises GitHubError without a usable App."""
    return _integration().requester


def installation_requester(installation_id: int) -> Requester:
    """A requester that speaks as an installation; its token is bought when first needed, and again before it ends.

    Raises GitHubError without a usable App.
    """
    key = _key(installation_id)
    with _lock:
        if (known := _requesters.get(key)) is not None:
            return known
    made = _as_installation(installation_id)
    with _lock:
        return _requesters.setdefault(key, made)


def forget_token(installation_id: int) -> None:
    """Forget an installation's token, which GitHub no longer accepts; the next request buys another."""
    with _lock:
        _requesters.pop(_key(installation_id), None)


def _as_installation(installation_id: int) -> Requester:
    integration = _integration()
    auth = integration.auth.get_installation_auth(installation_id, requester=integration.requester)
    return Github(auth=auth, **_manners()).requester


def _integration() -> GithubIntegration:
    if not has_app():
        raise GitHubError(NO_APP)
    _require_https(settings.GITHUB_API_URL)
    return GithubIntegration(auth=Auth.AppAuth(settings.GITHUB_APP_ID, _private_key()), **_manners())


def _manners() -> dict[str, Any]:
    """How PyGithub behaves: it never waits and never repeats, since workers do not sleep."""
    return {
        "base_url": settings.GITHUB_API_URL,
        "timeout": TIMEOUT_S,
        "user_agent": "gainshare",
        "per_page": 100,
        "retry": None,
        "seconds_between_requests": None,
        "seconds_between_writes": None,
        "lazy": True,
        "api_version": API_VERSION,
    }


def _private_key() -> str:
    """The key in PEM; written in one line with ``\\n`` is accepted as well. Raises GitHubError for anything else."""
    text = settings.GITHUB_PRIVATE_KEY.replace("\\n", "\n").strip() + "\n"
    try:
        loaded = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        raise GitHubError(BAD_KEY) from None
    if not isinstance(loaded, RSAPrivateKey):
        raise GitHubError(BAD_KEY)
    return text


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_own = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = False
    if parts.scheme != "https" and not (parts.scheme == "http" and is_own):
        raise GitHubError(PLAIN_HTTP)


def _key(installation_id: int) -> Key:
    digest = hashlib.sha256(settings.GITHUB_PRIVATE_KEY.encode()).hexdigest()
    return settings.GITHUB_API_URL, settings.GITHUB_APP_ID, digest, installation_id
