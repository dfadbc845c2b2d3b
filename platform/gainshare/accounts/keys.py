"""Format of API keys: ``gs_<prefix>_<secret>``. Pure functions."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

MARK = "gs_"
PREFIX_CHARS = 12
SECRET_BYTES = 32


@dataclass(frozen=True)
class RawKey:
    """A key's prefix and secret. The secret is not in ``repr``."""

    prefix: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> "RawKey":
        """A key with a 256-bit secret from the operating system."""
        return cls.with_prefix(secrets.token_hex(PREFIX_CHARS // 2))

    @classmethod
    def with_prefix(cls, prefix: str) -> "RawKey":
        """Like `generate`, for a key that already has its prefix."""
        return cls(prefix, secrets.token_hex(SECRET_BYTES))

    @classmethod
    def parse(cls, raw: str) -> "RawKey | None":
        """Parse ``raw``; None if it does not have the format of a key."""
        parts = raw.split("_")
        if len(parts) != 3 or parts[0] != "gs" or len(parts[1]) != PREFIX_CHARS:
            return None
        if len(parts[2]) != 2 * SECRET_BYTES:
            return None
        return cls(parts[1], parts[2])

    @property
    def text(self) -> str:
        return f"{MARK}{self.prefix}_{self.secret}"

    @property
    def secret_hash(self) -> str:
        """Hex SHA-256 of the secret: 256 random bits need no slow hash."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def matches(self, secret_hash: str) -> bool:
        """Constant-time comparison with a stored hash."""
        return hmac.compare_digest(self.secret_hash, secret_hash)
