"""An App is made from a manifest: a form is posted, a code comes back, and the code buys the App's secrets once."""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from bounty.github.standin.hub import Hub
from bounty.github.standin.keys import key_pair
from bounty.github.standin.local_only import is_own_machine
from bounty.github.standin.oauth import Page

LONGEST_NAME = 34


def submit(hub: Hub, text: str, state: str) -> Page:
    """POST of the form with a manifest: leads back to the manifest's redirect_url with a code."""
    try:
        manifest = json.loads(text)
        redirect = str(manifest["redirect_url"])
        name = str(manifest["name"])
    except (ValueError, KeyError, TypeError):
        return Page(422, "Invalid GitHub App configuration: the manifest cannot be read.")
    hook = manifest.get("hook_attributes", {}).get("url", "")
    if not name or len(name) > LONGEST_NAME or not manifest.get("url"):
        return Page(422, "Invalid GitHub App configuration: name or url.")
    if (hook and not is_own_machine(hook)) or not is_own_machine(redirect):
        return Page(422, "The stand-in for GitHub leads to addresses of this machine only.")
    code = secrets.token_hex(20)
    hub.state.manifests[code] = manifest
    parts = urlsplit(redirect)
    more = {"code": code} | ({"state": state} if state else {})
    return Page(
        302, "", urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *more.items()])))
    )


def convert(hub: Hub, code: str) -> dict[str, Any] | None:
    """POST /app-manifests/CODE/conversions: the App takes on the manifest; its secrets, shown this once."""
    manifest = hub.state.manifests.pop(code, None)
    if manifest is None:
        return None
    app = hub.app
    app.name = manifest["name"]
    app.slug = manifest["name"].lower().replace(" ", "-").replace(".", "-")
    app.bot.login = f"{app.slug}[bot]"
    app.permissions = dict(manifest.get("default_permissions", {}))
    app.events = list(manifest.get("default_events", []))
    app.hook_url = manifest.get("hook_attributes", {}).get("url", "")
    app.webhook_secret, app.client_secret = secrets.token_hex(20), secrets.token_hex(20)
    return {
        "client_id": app.client_id,
        "client_secret": app.client_secret,
        "webhook_secret": app.webhook_secret,
        "pem": key_pair()[0],
    }
