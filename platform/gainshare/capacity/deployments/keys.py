"""Keys of hosts, which sign canaries: registered once with each token."""

from __future__ import annotations

from benchmarks.evidence.signing import key_id
from benchmarks.faults import fault_point
from gainshare.capacity.errors import CapacityError
from gainshare.capacity.models import Host


def register_key(*, host: Host, public_key: str) -> str:
    """Note the host's public key (raw Ed25519 in base64) and return it. Repeating the same one changes nothing.

    A renewed token clears it (`hosts.registration.renew_token`). Raises CapacityError.
    """
    try:
        key_id(public_key)
    except ValueError:
        raise CapacityError(
            "A public key is the base64 of 32 bytes (raw Ed25519).", code="bad_key", status=400
        ) from None
    same_token = Host.objects.filter(pk=host.pk, token_digest=host.token_digest, revoked_at=None)
    same_token.filter(public_key="").update(public_key=public_key)
    fault_point("deployments.key.registered")
    if not same_token.filter(public_key=public_key).exists():
        raise CapacityError(
            "This host's token has a key already. If the agent lost it, a maintainer renews the token "
            "(gainshare hosts renew).",
            code="key_exists",
        )
    return public_key
