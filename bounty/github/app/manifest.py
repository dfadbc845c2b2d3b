"""The App's manifest: GitHub makes an App from it, with the permissions and events that are needed."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from bounty.github.app.permissions import EVENTS, NEEDED, WISHED, WISHED_EVENTS

LONGEST_NAME = 34
WEBHOOK_PATH = "/api/v1/github/webhook/"
CALLBACK_PATH = "/github/callback/"


def has_public_address() -> bool:
    """Whether GitHub can reach the site. Without that the site polls, and the App has no webhook."""
    parts = urlsplit(settings.PUBLIC_URL)
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal", ".test"))


def manifest(*, name: str = "") -> dict[str, Any]:
    """The manifest. ``name`` must be free at GitHub; it is made of the site's host if it is not given."""
    url = settings.PUBLIC_URL.rstrip("/")
    named = name or f"Gainshare {urlsplit(url).hostname or ''}"
    wanted: dict[str, Any] = {
        "name": named.strip()[:LONGEST_NAME],
        "url": url,
        "redirect_url": f"{url}/",
        "callback_urls": [f"{url}{CALLBACK_PATH}"],
        "public": False,
        "default_permissions": {**NEEDED, **WISHED},
    }
    if has_public_address():
        wanted["hook_attributes"] = {"url": f"{url}{WEBHOOK_PATH}", "active": True}
        wanted["default_events"] = [*EVENTS, *WISHED_EVENTS]
    return wanted
