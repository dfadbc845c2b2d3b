"""All of a run's randomness, derived from one secret that is committed to before the first sample.

Each purpose gets a separate generator, keyed by a hash: a patch that recovers the state of one (weights and inputs are
seen by the submitted code) learns nothing of the others, so later inputs cannot be predicted from earlier ones.
"""

import hashlib
import random
import secrets

import numpy as np

SECRET_BYTES = 32


class Seeds:
    """Generators named by labels, e.g. `numbers("pair", 3, "inputs", 7)`."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret has {SECRET_BYTES} bytes")
        self._secret = secret

    @classmethod
    def fresh(cls) -> tuple[bytes, "Seeds"]:
        secret = secrets.token_bytes(SECRET_BYTES)
        return secret, cls(secret)

    def child(self, name: str) -> "Seeds":
        """Generators of the same labels that have nothing to do with this one's."""
        return Seeds(self._key(("child", name)))

    def _key(self, label: tuple[str | int, ...]) -> bytes:
        text = "\0".join(f"{type(part).__name__}:{part}" for part in label)
        return hashlib.sha256(self._secret + text.encode()).digest()

    def numbers(self, *label: str | int) -> np.random.Generator:
        """Generator for tensors and shapes."""
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._key(label)[:16], "little")))

    def order(self, *label: str | int) -> random.Random:
        """Generator for orders and choices."""
        return random.Random(self._key(label))
