"""Addresses at which the gateway may reach a host's nodes: what a maintainer stated, or where its agent spoke first.

An agent names ports only, so a stolen or hostile token cannot make the gateway talk to another machine.
"""

from __future__ import annotations

import ipaddress
import re

from gainshare.capacity.errors import WrongAddress

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
MAX_ADDRESS = 200


def is_address(text: str) -> bool:
    """Whether it is an IP address or a host name, without scheme, port or path."""
    if len(text) > MAX_ADDRESS:
        return False
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None and not text.replace(".", "").isdigit()


def address_of(*, allowed: str, known: str, seen: str) -> str:
    """The address of a host whose agent speaks from ``seen``; ``known`` is the one of earlier heartbeats.

    Raises WrongAddress where no maintainer stated one, and ``seen`` is not the known one or cannot be a machine's own.
    """
    if allowed:
        return allowed
    if known and known == seen:
        return known
    if known:
        raise WrongAddress(
            "This host's agent spoke from another address before. If the machine has moved, a maintainer renews its "
            "token (gainshare hosts renew) or states its address."
        )
    if not _may_be_a_machine(seen):
        raise WrongAddress(
            "The site sees this agent at an address that may be a proxy's. A maintainer has to state the host's own "
            "address: gainshare hosts add --address.",
            code="address_needed",
        )
    return seen


def node_url(address: str, port: int) -> str:
    """Where the gateway reaches a node."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _may_be_a_machine(seen: str) -> bool:
    try:
        address = ipaddress.ip_address(seen)
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or address.is_reserved
    )
