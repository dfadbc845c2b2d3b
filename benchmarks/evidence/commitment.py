"""The commitment to a run's secrets: posted before the first sample, opened in the evidence after the last.

It shows that seeds, and with them inputs and orders, were fixed before anything was measured. Bound to the run's
nonce, so that secrets cannot be used again for another run.
"""

import hashlib
import hmac

LEAST_SECRET_BYTES = 32
_CONTEXT = b"gainshare.commitment/1"


def commit(secret: bytes, nonce: str) -> str:
    """SHA-256 in hex over context, nonce and secret, each with its length. Raises ValueError for short secrets."""
    if len(secret) < LEAST_SECRET_BYTES:
        raise ValueError(f"a secret has at least {LEAST_SECRET_BYTES} bytes")
    digest = hashlib.sha256()
    for part in (_CONTEXT, nonce.encode(), secret):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def opens(commitment: str, secret: bytes, nonce: str) -> bool:
    """True if `secret` and `nonce` are what was committed to."""
    try:
        return hmac.compare_digest(commit(secret, nonce).encode(), commitment.encode())
    except ValueError:
        return False
