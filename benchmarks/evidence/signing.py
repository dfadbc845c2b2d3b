"""Ed25519 keys and signatures (RFC 8032) of runners. Keys are PEM files; public keys and signatures travel as base64."""

import base64
import binascii
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ALGORITHM = "ed25519"


class KeyFileError(ValueError):
    """A key that cannot be read. The message names the file, never its content."""


def generate_key() -> Ed25519PrivateKey:
    """A fresh private key."""
    return Ed25519PrivateKey.generate()


def save_key(key: Ed25519PrivateKey, path: Path) -> None:
    """Write `key` as unencrypted PEM to `path` (mode 600), which must not exist yet."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key from a PEM file; raises KeyFileError."""
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise KeyFileError(f"{path} is not an unencrypted PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key")
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """The raw public key (32 bytes) in base64."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def key_id(public: str) -> str:
    """The short name of a public key: the first 16 hex digits of its raw bytes' SHA-256. ValueError if malformed."""
    return hashlib.sha256(_decode(public, 32)).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """The signature (64 bytes) of `message` in base64."""
    return base64.b64encode(key.sign(message)).decode()


def verify(public: str, signature: str, message: bytes) -> bool:
    """True if `signature` is that of `message` by `public`. False for anything malformed."""
    try:
        Ed25519PublicKey.from_public_bytes(_decode(public, 32)).verify(_decode(signature, 64), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _decode(text: str, length: int) -> bytes:
    """Base64 of exactly `length` bytes in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ValueError("not base64") from None
    if len(data) != length or base64.b64encode(data).decode() != text:
        raise ValueError(f"not the base64 of {length} bytes")
    return data
