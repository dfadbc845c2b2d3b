"""Errors of the pool."""

from __future__ import annotations

from gainshare.accounts.errors import DomainError


class CapacityError(DomainError):
    """A rule of the pool refused the call."""

    status = 409


class NotAllowed(CapacityError):
    """Only maintainers may do this."""

    code = "permission_denied"
    status = 403


class NotFound(CapacityError):
    """There is no such host, class or node."""

    code = "not_found"
    status = 404


class Superseded(CapacityError):
    """A newer agent speaks for the host; the one that gets this has to end its nodes and itself."""

    code = "superseded"


class StaleHeartbeat(CapacityError):
    """A heartbeat that came after a later one of the same agent."""

    code = "stale_heartbeat"


class WrongAddress(CapacityError):
    """The agent speaks from an address at which the site may not look for the host's nodes."""

    code = "wrong_address"
    status = 403
