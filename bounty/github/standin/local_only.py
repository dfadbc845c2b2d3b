"""The stand-in starts in local mode only: it believes everybody who asks, so a deployment must never have one."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from gainshare.local.errors import LocalModeError

REFUSED = "the stand-in for GitHub starts in local mode only"


def require_local_mode(environ: Mapping[str, str] | None = None) -> None:
    """Raise LocalModeError if the environment is that of a deployment.

    That is one whose site has an address other than this machine's, or whose database is on another machine.
    """
    named = os.environ if environ is None else environ
    site = named.get("GAINSHARE_URL", "")
    if site and not is_own_machine(site):
        raise LocalModeError(
            f"{REFUSED}: GAINSHARE_URL is {site}, which is not this machine", code="not_local"
        )
    database = named.get("DATABASE_URL", "")
    if database and not _is_own_database(database):
        raise LocalModeError(f"{REFUSED}: DATABASE_URL names a database on another machine", code="not_local")


def is_own_machine(url: str) -> bool:
    """Whether an address names this machine by its loopback interface."""
    return _is_loopback(urlsplit(url).hostname or "")


def _is_own_database(url: str) -> bool:
    parts = urlsplit(url)
    hosts = parse_qs(parts.query).get("host", []) + ([parts.hostname] if parts.hostname else [])
    return all(host.startswith("/") or _is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
