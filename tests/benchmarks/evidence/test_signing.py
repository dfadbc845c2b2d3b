"""Keys are files only their owner reads; commitments bind secrets to one run."""

import hashlib
import stat
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.evidence.commitment import commit, opens
from benchmarks.evidence.signing import (
    KeyFileError,
    generate_key,
    key_id,
    load_key,
    public_key,
    save_key,
    sign,
    verify,
)


def test_key_survives_its_file(tmp_path: Path) -> None:
    key = generate_key()
    save_key(key, tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    again = load_key(tmp_path / "key.pem")
    assert public_key(again) == public_key(key)
    assert verify(public_key(key), sign(again, b"m"), b"m")
    with pytest.raises(FileExistsError):
        save_key(key, tmp_path / "key.pem")


def test_signatures_are_of_one_message_and_key() -> None:
    key, other = generate_key(), generate_key()
    signature = sign(key, b"message")
    assert not verify(public_key(key), signature, b"messagf")
    assert not verify(public_key(other), signature, b"message")
    assert not verify("", signature, b"message")
    assert not verify(public_key(key), "%%%", b"message")
    assert not verify(public_key(key), signature + "\n", b"message")


def test_key_id_is_documented() -> None:
    public = public_key(generate_key())
    assert key_id(public) == hashlib.sha256(b64decode(public)).hexdigest()[:16]
    with pytest.raises(ValueError, match="base64"):
        key_id("short")


def test_bad_key_files_are_named_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(KeyFileError, match=r"key\.pem cannot be read"):
        load_key(path)
    path.write_text("secret words")
    with pytest.raises(KeyFileError) as error:
        load_key(path)
    assert "secret words" not in str(error.value)
    path.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        load_key(path)


def test_commitment_opens_only_with_its_secret_and_nonce() -> None:
    secret = bytes(32)
    commitment = commit(secret, "nonce")
    assert opens(commitment, secret, "nonce")
    assert not opens(commitment, secret, "nonc")
    assert not opens(commitment, secret + b"\0", "nonce")
    assert not opens(commitment, b"short", "nonce")
    assert commit(b"e" + secret, "nonc") != commit(secret, "nonce")  # lengths are part of it
    with pytest.raises(ValueError, match="32 bytes"):
        commit(bytes(31), "nonce")


def test_commitment_is_the_documented_hash() -> None:
    secret, digest = bytes(32), hashlib.sha256()
    for part in (b"gainshare.commitment/1", b"n", secret):
        digest.update(len(part).to_bytes(8, "big") + part)
    assert commit(secret, "n") == digest.hexdigest()
