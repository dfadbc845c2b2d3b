"""Tokens of hosts, ``gsh_<prefix>_<secret>``, of which only a digest is stored; and tokens of nodes, never stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from uuid import UUID

from django.utils.crypto import salted_hmac

from gainshare.capacity.models import Host

MARK = "gsh_"
PREFIX_CHARS = 12
SECRET_CHARS = 64


@dataclass(frozen=True)
class HostToken:
    """A new token; ``text`` is shown once and not in ``repr``."""

    prefix: str
    text: str = field(repr=False)
    digest: str = field(repr=False)


def new_token() -> HostToken:
    """A token with a 256-bit secret from the operating system."""
    prefix = secrets.token_hex(PREFIX_CHARS // 2)
    text = f"{MARK}{prefix}_{secrets.token_hex(SECRET_CHARS // 2)}"
    return HostToken(prefix, text, digest_of(text))


def digest_of(token: str) -> str:
    """Hex SHA-256: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def authenticate_host(token: str) -> Host | None:
    """The host that has this token, or None if it is unknown or revoked."""
    mark, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    if f"{mark}_" != MARK or len(prefix) != PREFIX_CHARS or len(secret) != SECRET_CHARS:
        return None
    host = Host.objects.filter(token_prefix=prefix, revoked_at=None).select_related("device_class").first()
    if host is None or not hmac.compare_digest(host.token_digest, digest_of(token)):
        return None
    return host


def node_token(node_id: UUID) -> str:
    """The bearer token of one node: in its agent's heartbeat answer, and in the gateway's requests to that node."""
    return salted_hmac("gainshare.capacity.node", str(node_id), algorithm="sha256").hexdigest()
