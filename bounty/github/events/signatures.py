"""The signature of a webhook delivery: HMAC-SHA256 over the raw body. Pure."""

import hashlib
import hmac
import re
from collections.abc import Sequence

HEADER = re.compile(r"sha256=[0-9a-f]{64}")


def is_signed(body: bytes, *, header: str, secrets: Sequence[str]) -> bool:
    """Whether `header` (`sha256=HEX`, as GitHub sends it) signs the body with one of the secrets.

    Every secret is tried, and each comparison takes the same time whatever the header holds.
    """
    if not HEADER.fullmatch(header):
        return False
    matches = [hmac.compare_digest(signature(body, secret), header) for secret in secrets]
    return any(matches)


def signature(body: bytes, secret: str) -> str:
    """The header that signs the body with this secret."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
